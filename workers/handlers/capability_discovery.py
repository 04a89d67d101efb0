"""Runs `internal.capability_discovery`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from core.app import App
from core.errors import ProviderNotFound, StoreUnavailable
from core.task_types.capability_discovery import CapabilityDiscovery
from workers.context import HandlerContext, PermanentFailure, RetryableFailure
from workers.handlers.provider_calls import provider_failures


def for_app(app: App) -> Callable[[CapabilityDiscovery, HandlerContext], Awaitable[dict[str, object]]]:
    """The handler of this process."""

    async def handle(input: CapabilityDiscovery, ctx: HandlerContext) -> dict[str, object]:
        """Runs twice: the list that was asked for later stays, and asking is free."""
        # Here: the first discovery of a process imports the price table, 40 MB that most processes never need.
        from core.capabilities.discovery import Discoverer  # noqa: PLC0415 (heavy: only when used)

        discoverer = Discoverer(app.engine, app.providers, app.capability_copies)
        try:
            with provider_failures():
                found = await discoverer.discover(input.provider)
        except ProviderNotFound as error:
            raise PermanentFailure(str(error), code=error.code) from None
        except StoreUnavailable as error:
            raise RetryableFailure(str(error), code=error.code) from None
        return {
            "provider": found.provider,
            "models": found.models,
            "skipped": found.skipped,
            "is_current": found.is_current,
        }

    return handle
