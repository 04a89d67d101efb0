"""
The `openai` SDK's client as we use it: no retries, no redirects, no proxy of the environment, bounded answers.

Imported when the first call is made, because the SDK costs 30 MB and most of a second.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONNECT_S = 10.0  # a provider that does not accept a connection by then is away
IDLE_S = 30.0  # below the idle limit of common load balancers (60 s), so that we close first
ERROR_LIMIT_BYTES = 64 * 1024  # of an error's body; the SDK reads errors whole
PACKED_ERROR_LIMIT_BYTES = 4 * 1024  # of a compressed one: at most 1,032 times as much comes out of deflate
PIECE_BYTES = 16 * 1024  # unpacked one at a time, so that a step makes at most 16 MiB
PACKINGS = frozenset({"", "identity", "gzip", "deflate"})


def build_client(*, base_url: str, api_key: str | None, connections: int) -> AsyncOpenAI:
    """
    A client for one event loop.

    Args:
        connections: at most this many at once; further calls wait for one, within their own deadline.
    """
    import openai  # noqa: PLC0415 (see the module's docstring)

    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_S)
    transport = BoundedTransport(httpx2.AsyncHTTPTransport(limits=limits, trust_env=False))
    client = openai.AsyncOpenAI(
        base_url=base_url,
        # The SDK insists on a key; a call without one leaves the header out (openai_compatible.py).
        api_key=api_key or "none",
        max_retries=0,  # the task's row owns retries
        http_client=httpx2.AsyncClient(
            transport=transport,
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            follow_redirects=False,  # a redirected POST is another request, and may be another host
            trust_env=False,
        ),
        timeout=httpx2.Timeout(None, connect=CONNECT_S),  # the total deadline is the caller's
    )
    # The SDK takes these from OPENAI_ORG_ID and OPENAI_PROJECT_ID; they belong to another provider than ours.
    client.organization = None
    client.project = None
    return client


def prepare() -> None:
    """Import what the first call would."""
    importlib.import_module("openai")


def is_packed_well(response: httpx2.Response) -> bool:
    """Whether the answer is compressed in a way whose size can be bounded while it is unpacked."""
    return response.headers.get("content-encoding", "").strip().lower() in PACKINGS


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Hands on every answer in small pieces, and of an error's body only the beginning."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        stream = response.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            return response  # never: this transport is asynchronous
        limit: int | None = None
        if not 200 <= response.status_code < 300:
            packed = "content-encoding" in response.headers
            limit = PACKED_ERROR_LIMIT_BYTES if packed else ERROR_LIMIT_BYTES
            if not is_packed_well(response):
                limit = 0
        response.stream = _Pieces(stream, limit=limit)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Pieces(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, *, limit: int | None) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        async for chunk in self._inner:
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                if left is not None:
                    piece = piece[:left]
                    left -= len(piece)
                    if not piece:
                        return
                yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
