"""A whole deployment: web process, worker processes and a provider, on the test's own database."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.app import App, open_app
from core.settings import Settings
from core.testing import FakeProvider
from tests.support.redis_names import Store
from tests.web.serving import Site, open_site

PROVIDER_KEY = "sk-canary-provider-key-4f2d9b7a"


@pytest.fixture
def provider() -> Generator[FakeProvider]:
    with FakeProvider(latency_s=0.05) as opened:
        yield opened


@pytest.fixture
def app(settings: Settings, provider: FakeProvider) -> Generator[App]:
    update = {
        "provider_url": provider.url,
        "provider_api_key": SecretStr(PROVIDER_KEY),
        "lease_s": 4.0,
        "heartbeat_s": 1.0,
        "shutdown_grace_s": 10.0,
    }
    with open_app(settings.model_copy(update=update)) as opened:
        yield opened


@pytest.fixture
def site(app: App, tmp_path: Path) -> Generator[Site]:
    with open_site(app, tmp_path / "web.log") as opened:
        yield opened


@pytest.fixture
def behind(settings: Settings, tmp_path: Path) -> Generator[Site]:
    """A web process behind a trusted proxy, which is the test; three failed log-ins ban."""
    update = {"trusted_proxies": ("127.0.0.1",), "ban_after_failures": 3}
    with open_app(settings.model_copy(update=update)) as app, open_site(app, tmp_path / "web.log") as opened:
        yield opened


@pytest.fixture
def store(behind: Site) -> Store:
    return Store(behind.app.settings)
