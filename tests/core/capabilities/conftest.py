"""A provider on loopback whose list of models the test decides, known to the application as `acme`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from datetime import timedelta

import pytest

from core.app import App
from core.capabilities.discovery import Discovered, Discoverer
from core.providers import openai_client
from core.providers.model import NewProvider
from core.testing import FakeProvider, Fault

Discover = Callable[[], Discovered]


def listing(*models: str | dict[str, object]) -> Fault:
    """GET /models answers these: ids, or whole entries."""
    data = [{"id": model, "object": "model"} if isinstance(model, str) else model for model in models]
    return Fault(body=json.dumps({"object": "list", "data": data}).encode())


@pytest.fixture
def provider() -> Generator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def acme(app: App, provider: FakeProvider) -> str:
    """The provider's name."""
    return app.providers.add(NewProvider(name="acme", base_url=provider.url)).name


@pytest.fixture
def discover(app: App, acme: str) -> Discover:
    """What a worker does with a discovery task; a slow provider is given up after a moment."""
    openai_client.prepare()  # a second of imports that is not the provider's
    discoverer = Discoverer(app.engine, app.providers, app.capability_copies, timeout=timedelta(seconds=1.5))
    return lambda: asyncio.run(discoverer.discover(acme))
