"""
Which provider gets a call: the first that is well, by priority, among those that serve the model.

One call of a handler may ask several providers, each of them once, and goes on to the next only when it is certain that
the last did no work: there was no connection, or it answered with 5xx or 429 before anything else. A timeout after the
request was sent, a cut reply, 504, or a 200 that is no answer may have been charged: those end the attempt, and the
row's retry asks again, with the same idempotency key, whoever is first by then. That is the same provider unless it has
been found down meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from core.providers.errors import ProviderFailure, not_configured
from core.providers.health import Health
from core.providers.openai_compatible import Answer, Provider
from core.providers.roster import Endpoint

logger = logging.getLogger(__name__)

Call = Callable[[Provider, timedelta], Awaitable[Answer]]


class Router:
    """
    All providers as one, for all threads and event loops of a process.

    Args:
        endpoints: all of them, in the order in which they are asked.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        endpoints: Callable[[], Awaitable[Sequence[Endpoint]]],
        *,
        health: Health | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = endpoints
        self._health = Health(clock) if health is None else health
        self._clock = clock

    async def chat_completion(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /chat/completions. Raises: ProviderFailure."""
        return await self._ask(
            body, timeout, lambda p, left: p.chat_completion(body, timeout=left, idempotency_key=idempotency_key)
        )

    async def embedding(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /embeddings. Raises: ProviderFailure."""
        return await self._ask(
            body, timeout, lambda p, left: p.embedding(body, timeout=left, idempotency_key=idempotency_key)
        )

    async def image_generation(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /images/generations. Raises: ProviderFailure."""
        return await self._ask(
            body, timeout, lambda p, left: p.image_generation(body, timeout=left, idempotency_key=idempotency_key)
        )

    async def video_submit(
        self, body: Mapping[str, object], *, timeout: timedelta, idempotency_key: str | None = None
    ) -> Answer:
        """POST /videos: order a video. Only the answer's `provider` knows it. Raises: ProviderFailure."""
        return await self._ask(
            body, timeout, lambda p, left: p.video_submit(body, timeout=left, idempotency_key=idempotency_key)
        )

    async def video_poll(self, video_id: str, *, timeout: timedelta, provider: str | None = None) -> Answer:
        """
        GET /videos/{id} at the provider that took the order, be it disabled meanwhile: a look is free, the video paid.

        Args:
            provider: the answer's to the order; None: the first of all, as when there was only one.

        Raises:
            ProviderFailure: also when that provider was removed.
        """
        known = await self._endpoints()
        found = next((e for e in known if provider is None or e.name == provider), None)
        if found is None:
            raise _removed(provider) if provider else not_configured()
        return await self._call(found, None, timeout, lambda p, left: p.video_poll(video_id, timeout=left))

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        for endpoint in await self._endpoints():
            await endpoint.close()

    async def _ask(self, body: Mapping[str, object], timeout: timedelta, call: Call) -> Answer:
        named = body.get("model")
        model = named if isinstance(named, str) else None
        until = self._clock() + timeout.total_seconds()
        failures: list[ProviderFailure] = []
        for endpoint in self._in_turn(serving(await self._endpoints(), model), model):
            left = timedelta(seconds=until - self._clock())
            if failures and left <= timedelta():
                break
            try:
                return await self._call(endpoint, model, left, call, is_fail_over=bool(failures))
            except ProviderFailure as failure:
                if not failure.uncharged and (failure.retryable or not failures):
                    raise
                # A stand-in's no is not the last word: who was asked before may say yes, and may be back soon.
                failures.append(failure)
                if not failure.uncharged:
                    break
        raise soonest(failures)

    def _in_turn(self, served: Sequence[Endpoint], model: str | None) -> Iterator[Endpoint]:
        """Those that are well when their turn comes; when none is, all: a bad chance is better than none."""
        is_anybody_well = False
        for endpoint in served:
            if self._health.admits(endpoint.name, model):
                is_anybody_well = True
                yield endpoint
        if not is_anybody_well:
            yield from served

    async def _call(
        self, endpoint: Endpoint, model: str | None, left: timedelta, call: Call, *, is_fail_over: bool = False
    ) -> Answer:
        """One physical call, seen by health and log."""
        provider = endpoint.provider
        if provider is None:
            raise _unusable(endpoint)
        began = self._clock()
        with endpoint.lock:
            endpoint.calls += 1
        try:
            answer = await call(provider, left)
        except ProviderFailure as failure:
            took = timedelta(seconds=self._clock() - began)
            self._health.failed(endpoint.name, model, failure, took=took)
            logger.info(
                "provider call failed",
                extra={
                    "provider": endpoint.name,
                    "code": failure.code,
                    "took_s": round(took.total_seconds(), 3),
                    "may_be_charged": not failure.uncharged,
                },
            )
            raise
        finally:
            with endpoint.lock:
                endpoint.calls -= 1
                is_over = endpoint.is_retired and endpoint.calls == 0
            if is_over:
                await endpoint.close()
        self._health.succeeded(endpoint.name)
        level = logging.INFO if is_fail_over else logging.DEBUG
        logger.log(level, "provider call answered", extra={"provider": endpoint.name, "fail_over": is_fail_over})
        return replace(answer, provider=endpoint.name)


def serving(endpoints: Sequence[Endpoint], model: str | None) -> Sequence[Endpoint]:
    """
    Those that may be asked for the model, in their order: enabled, allowed to, and listing it themselves.

    When the model is in nobody's list, all that may be asked for it: a list may be old, and the provider decides.

    Raises:
        ProviderFailure: there is none.
    """
    allowing = [endpoint for endpoint in endpoints if endpoint.row.allows(model)]
    enabled = [endpoint for endpoint in allowing if endpoint.row.enabled]
    usable = [endpoint for endpoint in enabled if endpoint.provider is not None]
    if not usable:
        raise _nobody(endpoints, allowing, enabled, model)
    listing = [endpoint for endpoint in usable if endpoint.lists is None or model is None or model in endpoint.lists]
    return listing or usable


def soonest(failures: Sequence[ProviderFailure]) -> ProviderFailure:
    """Of the failures of one attempt the one that is over first: one provider that is back is enough."""
    return min(failures, key=lambda failure: (not failure.retryable, failure.retry_after or timedelta()))


def _nobody(
    all_: Sequence[Endpoint], allowing: Sequence[Endpoint], enabled: Sequence[Endpoint], model: str | None
) -> ProviderFailure:
    if not all_:
        return not_configured()
    if enabled:
        return _unusable(enabled[0])
    if allowing:
        return ProviderFailure(
            "every provider that serves this model is disabled", code="provider_unavailable", retryable=True
        )
    what = "without a model: name one" if model is None else "for this model"
    return ProviderFailure(f"no provider may be asked {what}", code="model_not_served", retryable=False)


def _unusable(endpoint: Endpoint) -> ProviderFailure:
    """Retryable: it is the operator's to mend, and the task need not pay for it."""
    return ProviderFailure(endpoint.problem or "", code="provider_not_configured", retryable=True)


def _removed(name: str) -> ProviderFailure:
    return ProviderFailure(
        f"provider {name} was removed, and with it the way to this video", code="provider_removed", retryable=False
    )
