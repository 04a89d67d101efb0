"""
One OpenAI-compatible provider, through the `openai` SDK.

Guarantees: each call makes one request and ends within its timeout, however slowly the answer trickles; the answer is
the provider's JSON text unchanged; its size is bounded before it is in memory; what goes wrong is a `ProviderFailure`
without keys or prompts. It does not retry: the task's row does.
"""

from __future__ import annotations

import asyncio
import json
import threading
from asyncio import AbstractEventLoop
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, cast
from urllib.parse import quote, urlsplit

import orjson

from core.providers.errors import ProviderFailure, error_inside, not_configured, refusal, retry_after
from core.providers.filtering import Filter, filter_for

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

DEFAULT_ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
DEFAULT_CONNECTIONS = 256
"""Above the 256 threads one worker process may have at most, so that no call waits for another's connection."""

MEMBERS: dict[str, type] = {"choices": list, "data": list, "id": str, "status": str}
"""The one member without which an answer is not one. The rest is between the provider and the task's owner."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the provider answered.

    Args:
        text: its JSON, unchanged.
        body: the same, parsed.
        poll_after: when it wants to be asked again (`openai-poll-after-ms`, or Retry-After).
        provider: name of who answered, where several may.
    """

    text: str
    body: Mapping[str, object]
    poll_after: timedelta | None = None
    provider: str = ""


class Provider:
    """
    The configured provider; one for the process, for all threads and event loops.

    Args:
        base_url: e.g. `https://host/v1`; None: every call fails with `provider_not_configured`.
        api_key: None sends no Authorization header, as local servers like it.
        answer_limit_bytes: a longer answer fails with `result_too_large`.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        *,
        answer_limit_bytes: int = DEFAULT_ANSWER_LIMIT_BYTES,
        connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._answer_limit_bytes = answer_limit_bytes
        self._connections = connections
        self._clients: dict[AbstractEventLoop, AsyncOpenAI] = {}
        self._lock = threading.Lock()

    async def chat_completion(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /chat/completions. Raises: ProviderFailure."""
        return await self._call(
            "POST", "/chat/completions", body, timeout=timeout, key=idempotency_key, expected="choices"
        )

    async def embedding(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /embeddings. Raises: ProviderFailure."""
        return await self._call("POST", "/embeddings", body, timeout=timeout, key=idempotency_key, expected="data")

    async def image_generation(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /images/generations. Raises: ProviderFailure."""
        return await self._call(
            "POST", "/images/generations", body, timeout=timeout, key=idempotency_key, expected="data"
        )

    async def video_submit(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /videos: order a video; the answer holds its `id` and `status`. Raises: ProviderFailure."""
        return await self._call("POST", "/videos", body, timeout=timeout, key=idempotency_key, expected="id")

    async def video_poll(self, video_id: str, *, timeout: timedelta) -> Answer:
        """GET /videos/{id}: how far the video is. Raises: ProviderFailure."""
        return await self._call(
            "GET", f"/videos/{quote(video_id, safe='')}", None, timeout=timeout, key=None, expected="status"
        )

    async def models(self, *, timeout: timedelta) -> Answer:
        """GET /models: what it says it serves, under `data`. Never charged. Raises: ProviderFailure."""
        return await self._call("GET", "/models", None, timeout=timeout, key=None, expected="data")

    async def close(self) -> None:
        """Close the connections of the running event loop. Calls in flight on it fail; later ones open new ones."""
        with self._lock:
            client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        timeout: timedelta,
        key: str | None,
        expected: str,
    ) -> Answer:
        filtered = filter_for(body, secrets=(self._api_key or "",))
        try:
            async with asyncio.timeout(max(timeout.total_seconds(), 0.0)):
                client = await self._client()
                response, data = await self._exchange(client, method, path, body, key=key, filtered=filtered)
        except TimeoutError:
            raise ProviderFailure(
                f"the provider did not answer within {timeout.total_seconds():.1f} s",
                code="provider_timeout",
                retryable=True,
            ) from None
        text, parsed = _parsed(data)
        if not isinstance(parsed.get(expected), MEMBERS[expected]):
            raise error_inside(parsed, filtered=filtered) or _malformed(f"its answer has no usable {expected!r}")
        return Answer(text, parsed, _poll_after(response.headers))

    async def _exchange(
        self,
        client: AsyncOpenAI,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        key: str | None,
        filtered: Filter,
    ) -> tuple[httpx2.Response, bytes]:
        """One request and its whole answer. Every error of SDK and transport leaves as ProviderFailure."""
        import httpx2  # noqa: PLC0415 (already imported by the client; a worker without provider calls never needs it)
        import openai  # noqa: PLC0415 (heavy: only when used)

        # `from None` throughout: the SDK's exceptions carry request and answer, and would show them in a traceback.
        try:
            response = await self._send(client, method, path, body, key=key)
            try:
                return response, await self._read(response)
            finally:
                await response.aclose()
        except openai.APIStatusError as error:
            raise refusal(error.status_code, error.response.headers, error.body, filtered=filtered) from None
        except openai.APIConnectionError as error:
            _unreachable(error.__cause__ or error, filtered)
        except httpx2.HTTPError as error:
            _unreachable(error, filtered)

    async def _send(
        self, client: AsyncOpenAI, method: str, path: str, body: Mapping[str, object] | None, *, key: str | None
    ) -> httpx2.Response:
        import httpx2  # noqa: PLC0415 (heavy: only when used)
        from openai import Omit  # noqa: PLC0415 (heavy: only when used)

        headers: dict[str, str | Omit] = {
            "Accept-Encoding": "identity",
            "X-Stainless-Raw-Response": "stream",  # what the SDK's own with_streaming_response sets
        }
        if self._api_key is None:
            headers["Authorization"] = Omit()
        if key is not None:
            headers["Idempotency-Key"] = key
        # Not client.chat.completions.create: those methods rewrite the body (embeddings become base64) and the answer.
        if method == "GET":
            return await client.get(path, cast_to=httpx2.Response, options={"headers": headers})
        headers["Content-Type"] = "application/json"
        return await client.post(
            path, cast_to=httpx2.Response, content=orjson.dumps(body), options={"headers": headers}
        )

    async def _read(self, response: httpx2.Response) -> bytes:
        from core.providers.openai_client import is_packed_well  # noqa: PLC0415 (it imports httpx2)

        if not is_packed_well(response):
            raise _malformed("its answer is compressed in a way it was not asked for")
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:18]) > self._answer_limit_bytes:
            raise self._too_large()
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > self._answer_limit_bytes:
                raise self._too_large()
        return bytes(data)

    async def _client(self) -> AsyncOpenAI:
        """The running loop's client. The first one imports the SDK, in a thread: the loop has other tasks to serve."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is not None:
            return client
        return await asyncio.to_thread(self._client_of, loop, _checked(self._base_url))

    def _client_of(self, loop: AbstractEventLoop, base_url: str) -> AsyncOpenAI:
        from core.providers.openai_client import build_client  # noqa: PLC0415 (lazily: 30 MB)

        with self._lock:  # the first calls come together; one of them builds
            client = self._clients.get(loop)
            if client is None:
                for gone in [other for other in self._clients if other.is_closed()]:
                    del self._clients[gone]  # its connections went with it
                client = build_client(base_url=base_url, api_key=self._api_key, connections=self._connections)
                self._clients[loop] = client
            return client

    def _too_large(self) -> ProviderFailure:
        return ProviderFailure(
            f"the provider's answer is over {self._answer_limit_bytes} bytes, the limit of a result",
            code="result_too_large",
            retryable=False,
        )


def _checked(base_url: str | None) -> str:
    try:
        parts = urlsplit(base_url or "")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        usable = False
    if base_url and usable:
        return base_url
    raise not_configured("is not a URL of http or https") if base_url else not_configured()


def _parsed(data: bytes) -> tuple[str, Mapping[str, object]]:
    """The answer as text and as an object. Strict: no NaN, no bytes outside UTF-8, nothing after the object."""
    try:
        text = data.decode()
        try:
            value: object = orjson.loads(text)
        except orjson.JSONDecodeError:
            # Lone surrogates (`"\ud800"`) are JSON by RFC 8259; orjson refuses them, the standard library does not.
            value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _malformed("its answer is not JSON") from None
    if not isinstance(value, dict):
        raise _malformed("its answer is not a JSON object")
    return text, cast("dict[str, object]", value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _poll_after(headers: Mapping[str, str]) -> timedelta | None:
    return retry_after(
        {"retry-after-ms": headers["openai-poll-after-ms"]} if "openai-poll-after-ms" in headers else headers
    )


def _malformed(why: str) -> ProviderFailure:
    return ProviderFailure(f"the provider cannot be understood: {why}", code="provider_malformed", retryable=True)


def _unreachable(error: BaseException, filtered: Filter) -> NoReturn:
    """Names, TLS and connections refused or cut: what a person needs to find the cause."""
    import httpx2  # noqa: PLC0415 (heavy: only when used)

    why = filtered(str(error))
    raise ProviderFailure(
        f"the provider cannot be reached ({type(error).__name__}){': ' + why if why else ''}",
        code="provider_unavailable",
        retryable=True,
        # There was no connection, so nothing was sent. Anything later may have arrived, whatever the error says.
        uncharged=isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout),
    ) from None
