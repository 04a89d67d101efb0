"""One web process for all tests that do not disturb it, and one of one's own for those that do."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.app import App, open_app
from core.embedded import Servers
from core.settings import Settings
from core.tasks import queues
from tests.support.databases import fresh_database
from tests.web.serving import Caller, Site, open_site

_QUEUES = [f"q{number}" for number in range(50)]
_queues = iter(_QUEUES)


@pytest.fixture(scope="session")
def site(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """Shared: look only at tasks of your own."""
    directory = tmp_path_factory.mktemp("web")
    with fresh_database(servers.database_url) as url:
        settings = server_settings.model_copy(
            update={"database_url": SecretStr(url), "instance_name": f"w{secrets.token_hex(4)}:", "data_dir": directory}
        )
        with open_app(settings) as app:
            with app.engine.begin() as connection:
                queues.add(connection, _QUEUES)
            with open_site(app, directory / "web.log") as opened:
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
