"""One call of the provider, made and awaited in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any

import pytest

from core.providers.errors import ProviderFailure
from core.providers.openai_compatible import Answer, Provider

CHAT = {"model": "fake-chat", "messages": [{"role": "user", "content": "hello there"}]}
TEN_SECONDS = timedelta(seconds=10)
API_KEY = "sk-test-canary-0123456789"


def run(provider: Provider, call: Coroutine[Any, Any, Answer]) -> Answer:
    """One call on an event loop of its own, which is left with all connections closed."""

    async def body() -> Answer:
        try:
            return await call
        finally:
            await provider.close()

    return asyncio.run(body())


def chat(
    provider: Provider, body: Mapping[str, object] = CHAT, *, timeout: timedelta = TEN_SECONDS, key: str | None = None
) -> Answer:
    return run(provider, provider.chat_completion(body, timeout=timeout, idempotency_key=key))


def failure_of(provider: Provider, body: Mapping[str, object] = CHAT, **options: Any) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as caught:
        chat(provider, body, **options)
    return caught.value
