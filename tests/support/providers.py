"""Several providers in one process, and a router over them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from core.providers.health import Health
from core.providers.model import KeySource, ProviderRow
from core.providers.openai_compatible import Provider
from core.providers.roster import Endpoint
from core.providers.routing import Router

T = TypeVar("T")


def endpoint(
    name: str,
    url: str,
    *,
    models: Sequence[str] = (),
    enabled: bool = True,
    lists: Sequence[str] | None = None,
    priority: int = 1,
) -> Endpoint:
    row = ProviderRow(
        name=name,
        base_url=url,
        key_source=KeySource.NONE,
        priority=priority,
        models=tuple(models),
        enabled=enabled,
    )
    return Endpoint(row, Provider(url, None), lists=None if lists is None else frozenset(lists))


def endpoint_of(provider: Provider) -> Endpoint:
    """The one there is."""
    row = ProviderRow(name="default", base_url="http://of.a.test", key_source=KeySource.NONE, priority=1)
    return Endpoint(row, provider)


def router_over(*endpoints: Endpoint, health: Health | None = None) -> Router:
    async def known() -> Sequence[Endpoint]:
        return endpoints

    return Router(known, health=health)


def run(router: Router, *calls: Coroutine[Any, Any, T]) -> list[T]:
    """The calls, one after the other on one event loop, which is left with all connections closed."""

    async def body() -> list[T]:
        try:
            return [await call for call in calls]
        finally:
            await router.close()

    return asyncio.run(body())
