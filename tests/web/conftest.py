"""One web process for all tests that do not disturb it, and one of one's own for those that do."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from core.app import App
from core.embedded import Servers
from core.settings import Settings
from core.tasks import queues
from tests.web.serving import Caller, Site, open_shared_site, open_site

_QUEUES = [f"q{number}" for number in range(50)]
_queues = iter(_QUEUES)


@pytest.fixture(scope="session")
def site(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """Shared: look only at tasks of your own."""
    with open_shared_site(servers, server_settings, tmp_path_factory.mktemp("web")) as opened:
        with opened.app.engine.begin() as connection:
            queues.add(connection, _QUEUES)
        yield opened


@pytest.fixture
def caller(site: Site) -> Caller:
    """A client whose key has no tasks yet."""
    return site.other()


@pytest.fixture
def queue(site: Site) -> str:
    """A queue of the test's own on the shared site: a claim from it takes no other test's task."""
    return next(_queues)


@pytest.fixture
def own_site(app: App, tmp_path: Path) -> Generator[Site]:
    with open_site(app, tmp_path / "web.log") as opened:
        yield opened
