"""What processes have to let virtual keys in, side by side in one test."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from core.access.keys.authenticator import Authenticator
from core.access.keys.gate import Gate
from core.access.keys.key_limits import KeyLimits
from core.access.keys.limit_copies import LimitCopies
from core.access.keys.peppers import Peppers
from core.access.keys.virtual_keys import VirtualKeys
from core.app import App
from core.cache.caches import Caches
from core.connections import RedisLink, autocommit, connect_database

NOBODY_LISTENS = "postgresql://nobody@127.0.0.1:1/none"


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
