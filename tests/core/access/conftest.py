"""One database for all tests of access that look only at keys of their own, and the parts of a process beside it."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from core.access.authenticator import Authenticator
from core.access.gate import Gate
from core.access.key_limits import KeyLimits
from core.access.limit_copies import LimitCopies
from core.access.limiter import Fallback, Limiter
from core.access.local_limiter import LocalLimiter
from core.access.peppers import Peppers
from core.access.virtual_keys import VirtualKeys
from core.app import App, open_app
from core.cache.caches import Caches
from core.connections import RedisLink, autocommit, connect_database
from core.embedded import Servers
from core.settings import Settings
from tests.support.databases import fresh_database
from tests.support.rights import Rights
from tests.support.waiting import wait_until

NOBODY_LISTENS = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture(scope="session")
def shared(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[App]:
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


class Trusting:
    """A change log that is followed without a break."""

    def epoch(self) -> str | None:
        return "one"

    def is_current(self) -> bool:
        return True


class Process:
    """
    What a process has to let keys in, on the stores of `app`, or without one of them.

    Args:
        peppers: of this process's settings; those of the app when not given.
    """

    def __init__(
        self,
        app: App,
        *,
        peppers: Mapping[int, str] | None = None,
        has_database: bool = True,
        has_redis: bool = True,
        gate: Gate | None = None,
    ) -> None:
        url = app.settings.database_url
        redis_url, pepper = app.settings.redis_url, app.settings.key_pepper
        assert url is not None
        assert redis_url is not None
        assert pepper is not None
        text = pepper.get_secret_value()
        if peppers is not None:
            text = ",".join(f"{version}:{secret}" for version, secret in peppers.items())
        self.peppers = Peppers.parse(text)
        self.engine = connect_database(url.get_secret_value() if has_database else NOBODY_LISTENS)
        self.link = RedisLink(redis_url.get_secret_value(), is_off=not has_redis)
        self.caches = Caches(self.link, pepper=text, trust=Trusting())
        self.keys = VirtualKeys(autocommit(self.engine).connect, self.peppers)
        self.copies = LimitCopies(self.caches, app.settings.instance_name)
        self.limits = KeyLimits(self.keys.find_many, copy=self.copies.copy, write=self.copies.write)
        self.door = Authenticator(self.caches, self.keys, self.peppers, learn=self.limits.learn, gate=gate)
        self.queries = 0
        sa.event.listen(self.engine, "before_cursor_execute", self._count)

    def entry(self, clear_key: str) -> str:
        """The name of the key's copy in Redis."""
        return f"vkey:{self.peppers.entry_id(clear_key)}"

    def close(self) -> None:
        self.engine.dispose()
        self.link.close()

    def _count(self, *_: object) -> None:
        self.queries += 1


class Processes:
    """Makes them and closes them."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._made: list[Process] = []

    def __call__(
        self,
        *,
        peppers: Mapping[int, str] | None = None,
        has_database: bool = True,
        has_redis: bool = True,
        gate: Gate | None = None,
    ) -> Process:
        made = Process(self._app, peppers=peppers, has_database=has_database, has_redis=has_redis, gate=gate)
        self._made.append(made)
        return made

    def close(self) -> None:
        for process in self._made:
            process.close()


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


@pytest.fixture
def rights(app: App) -> Generator[Rights]:
    """What a process with a started watch believes."""
    believed = Rights(app)
    app.access.watch.start()
    wait_until(lambda: app.access.watch.is_current() and app.access.watch.epoch(), 5, what="the watch is current")
    yield believed
    app.access.watch.close()
