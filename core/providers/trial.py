"""Trying a provider without cost: one GET /models with its key, never a paid call."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from core.providers.errors import ProviderFailure
from core.providers.openai_compatible import Provider

TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Trial:
    """
    What came of it.

    Args:
        latency_ms: from the request to the whole answer, connection included.
        models: how many it lists; None: no answer.
        code, error: of the failure, without keys.
    """

    latency_ms: int
    models: int | None = None
    code: str | None = None
    error: str | None = None

    @property
    def is_good(self) -> bool:
        return self.code is None

    def to_document(self, name: str) -> dict[str, object]:
        return {
            "name": name,
            "ok": self.is_good,
            "latency_ms": self.latency_ms,
            "models": self.models,
            "code": self.code,
            "error": self.error,
        }


async def try_provider(base_url: str, api_key: str | None, *, timeout: timedelta = TIMEOUT) -> Trial:
    """Never raises for what the provider does."""
    # The SDK's import is not the provider's latency.
    await asyncio.to_thread(_import_client)
    provider = Provider(base_url, api_key)
    began = time.monotonic()
    try:
        answer = await provider.models(timeout=timeout)
    except ProviderFailure as failure:
        return Trial(_passed_ms(began), code=failure.code, error=str(failure))
    finally:
        await provider.close()
    return Trial(_passed_ms(began), models=len(cast("list[object]", answer.body["data"])))


def _import_client() -> None:
    from core.providers import openai_client  # noqa: PLC0415 (30 MB that only a trial needs)

    openai_client.prepare()


def _passed_ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
