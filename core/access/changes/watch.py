"""
What every process knows of changes of rights, and whether it knows enough (law 6).

Two ways lead here, and each alone suffices: the change log in Redis (milliseconds) and the table of changes in
PostgreSQL (two seconds). Each has a thread, because a server that hangs must not stop the other way.
Time is the database's and Redis's; of this host only how much of it passed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from core.access.changes.backstop import Backstop
from core.access.changes.changes import Changes
from core.access.changes.doors import DoorRow
from core.access.changes.follower import Follower
from core.access.changes.hearing import Hearing, now_s
from core.access.changes.lag import LagReport, Lags
from core.access.changes.log import ChangeLog, LogKeys
from core.access.limits.local_limiter import ALONE, Share
from core.connections import RedisLink, connect_database
from core.events.access import Change

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Change)

STATEMENT_MS = 2_000  # a look that takes longer is a database that is away
CLOSE_S = 3.0


class Watch:
    """
    One a process; not started (a producer, a command), it trusts no copy.

    Args:
        redis_url: None: this deployment does without Redis.
    """

    def __init__(self, database_url: str, redis_url: str | None, *, instance: str) -> None:
        self._database_url = database_url
        self._keys = LogKeys(instance)
        self._link = None if redis_url is None else RedisLink(redis_url, max_connections=2)
        self._hearing = Hearing()
        self._backstop: Backstop | None = None
        self._follower = (
            None if redis_url is None else Follower(redis_url, self._keys, self._hearing, on_connect=self.urge)
        )
        self._threads: list[threading.Thread] = []

    def listen(self, kind: type[C], hear: Callable[[C], object]) -> None:
        """
        Call `hear` with each change of this kind, on a thread of the watch: at least once, in any order.

        It must be quick and must not wait for a server: meanwhile nothing else is heard, and after four seconds
        nothing in memory is trusted. What it raises is logged.
        """
        self._hearing.listen(kind, hear)

    def on_gap(self, hear: Callable[[], object]) -> None:
        """Call `hear` when changes may have been lost, and once in the beginning: what is in memory does not count."""
        self._hearing.on_gap(hear)

    def start(self, *, is_door: bool = False) -> None:
        """Args: is_door: this is a web process, which shares the limits with others."""
        engine = connect_database(self._database_url, pool_size=1, statement_timeout_ms=STATEMENT_MS)
        self._backstop = Backstop(
            engine,
            Changes(engine, None if self._link is None else ChangeLog(self._link, self._keys)),
            self._hearing,
            connection=lambda: 0 if self._follower is None else self._follower.connection,
            door=DoorRow() if is_door else None,
        )
        runs = [("access backstop", self._backstop.run)]
        if self._follower is not None:
            runs.append(("access log", self._follower.run))
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in runs]
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        """False: a thread ended by a mistake of ours, and the process must end too (law 10)."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End the threads, and the row of this door; without it, after ten seconds, it counts no more."""
        if self._follower is not None:
            self._follower.close()
        if self._backstop is not None:
            self._backstop.close()
        for thread in self._threads:
            thread.join(CLOSE_S)
        self._threads = []
        if self._link is not None:
            self._link.close()

    def epoch(self) -> str | None:
        """
        The epoch whose entries in Redis may grant rights.

        None: there is no Redis, it was not asked in the last 2.5 s, or it may lack the news of what was revoked while
        it was away.
        """
        follower, backstop = self._follower, self._backstop
        if follower is None or backstop is None or now_s() >= follower.fresh_until:
            return None
        return follower.epoch if backstop.clean_connection == follower.connection else None

    def is_current(self) -> bool:
        """Whether memory may grant rights: everything was heard up to four seconds ago, by one way or the other."""
        follower, backstop = self._follower, self._backstop
        if backstop is None:
            return False
        now = now_s()
        if now < backstop.current_until:
            return True
        # The log alone, unless it may still lack what nobody could tell it while it was away.
        is_followed = follower is not None and now < follower.current_until
        return is_followed and follower is not None and backstop.clean_connection == follower.connection

    def urge(self) -> None:
        """Look into the database now: there is a change that no log may tell of. Returns at once."""
        if self._backstop is not None:
            self._backstop.urge()

    def lag(self) -> LagReport:
        """How late changes are heard in this process."""
        lags = Lags() if self._follower is None else self._follower.lags
        return lags.report(now=now_s())

    @property
    def share(self) -> Share:
        """This process's part of the limits of all live web processes; as last counted while the database is away."""
        return ALONE if self._backstop is None else self._backstop.share

    @property
    def live_doors(self) -> int:
        """Live web processes, at least one."""
        return self.share.processes
