"""Processes that let keys in, and what one believes: on a database of the test's own, or on one for all of them."""

from __future__ import annotations

import secrets
from collections.abc import Generator

import pytest
from pydantic import SecretStr

from core.access.keys.virtual_keys import VirtualKeys
from core.access.limits.limiter import Fallback, Limiter
from core.access.limits.local_limiter import LocalLimiter
from core.app import App, open_app
from core.connections import RedisLink
from core.embedded import Servers
from core.settings import Settings
from tests.support.databases import fresh_database
from tests.support.key_processes import Processes
from tests.support.rights import Rights
from tests.support.waiting import wait_until


@pytest.fixture
def rights(app: App) -> Generator[Rights]:
    """What a process with a started watch believes."""
    believed = Rights(app)
    app.access.watch.start()
    wait_until(lambda: app.access.watch.is_current() and app.access.watch.epoch(), 5, what="the watch is current")
    yield believed
    app.access.watch.close()


@pytest.fixture(scope="session")
def shared(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[App]:
    """One application for all tests that look only at keys of their own."""
    with fresh_database(servers.database_url) as url:
        settings = server_settings.model_copy(
            update={
                "database_url": SecretStr(url),
                "instance_name": f"k{secrets.token_hex(4)}:",
                "data_dir": tmp_path_factory.mktemp("access"),
            }
        )
        with open_app(settings) as app:
            yield app


@pytest.fixture
def keys(shared: App) -> VirtualKeys:
    return shared.keys


@pytest.fixture
def process(shared: App) -> Generator[Processes]:
    """`process()` makes one; each has memory of its own."""
    processes = Processes(shared)
    yield processes
    processes.close()


@pytest.fixture
def link(servers: Servers) -> Generator[RedisLink]:
    """The server's first database, emptied: nobody else uses it, and no PostgreSQL database has to be made."""
    opened = RedisLink(servers.redis_url, timeout_s=5.0)
    opened.client.flushdb()
    yield opened
    opened.client.flushdb()
    opened.close()


@pytest.fixture
def limiter(link: RedisLink) -> Limiter:
    """Closed without Redis, so that a test never passes by the fallback."""
    return Limiter(link, Fallback("closed", LocalLimiter()))
