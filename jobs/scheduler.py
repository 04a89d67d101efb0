"""
One tick of a scheduler: fire what is due, take over what dead schedulers held, begin what waits, end what hangs.

The database decides what is due; a tick that comes early, late, twice or never changes latency, nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

import sqlalchemy as sa

from core.app import App
from core.connections import autocommit, connect_database, database_errors
from core.errors import Misconfigured, StoreUnavailable
from core.ids import WorkerId
from core.schedules import runs
from core.schedules.firing import Firing, Look
from jobs import rows
from jobs.presence import LEASE_S, Presence
from jobs.runs import Runs
from jobs.spec import JobSpec

logger = logging.getLogger(__name__)

EVERY_S = 1.0
STALLED_S = 60.0  # several times the longest statement: a tick that takes longer will not end
CHECK_ROWS_EVERY_S = 30.0
CONNECTIONS = 4  # the tick, the heartbeat, and runs that end at the same time
LEAVE_S = 3.0  # of the grace, for the database: what ended is written, what did not is given back


class Scheduler:
    """`start` it once, `tick` it each second and at the times that a tick returns, `stop` it. Ticks do not overlap."""

    def __init__(self, app: App, jobs: Mapping[str, JobSpec]) -> None:
        self._jobs = jobs
        self._engine = _own_engine(app)
        self._direct = autocommit(self._engine)
        self._capabilities = app.capabilities
        self._firing = Firing(
            self._engine,
            types=app.types,
            jobs=list(jobs),
            check_model=app.capabilities.check,
            ring=app.bells.ring,
        )
        self._runs = Runs(app, jobs, self._engine)
        self._presence = Presence(self._engine, on_lost=self._runs.drop)
        self._ticking = threading.Lock()
        self._stopping = False
        self._ended_at = time.monotonic()
        self._rows_checked_at = time.monotonic()
        self._away = False
        self._unsure = False
        self._no_take_over_before = float("-inf")

    def start(self) -> None:
        """
        Raises:
            StoreUnavailable: nothing was done that a second call would not do again.
        """
        with database_errors("the jobs were not written down"), self._engine.begin() as connection:
            rows.write(connection, self._jobs)
        self._presence.start()
        self._ended_at = time.monotonic()

    def tick(self) -> float | None:
        """Seconds until the next fire, when that is before the next tick; an outage is logged once."""
        if not self._ticking.acquire(blocking=False):
            return None
        try:
            if self._stopping:
                return None
            look = self._tick()
        except StoreUnavailable as error:
            if not self._away:
                logger.warning("the database is away: %s", error)
            self._away = True
            # Others could not send heartbeats either: their silence proves nothing.
            self._no_take_over_before = time.monotonic() + LEASE_S
            return None
        else:
            if self._away:
                logger.info("the database is back")
            self._away = False
            return _until(look)
        finally:
            self._ended_at = time.monotonic()
            self._ticking.release()

    def has_stalled(self) -> bool:
        """Whether the ticks or the heartbeats ended."""
        return time.monotonic() - self._ended_at > STALLED_S or not self._presence.is_alive()

    def is_worn_out(self) -> bool:
        """Too many threads hang in jobs: another process should go on."""
        return self._runs.has_too_many_abandoned

    def stop(self, grace_s: float) -> None:
        """Fire nothing more, let runs end, give back those that do not."""
        deadline = time.monotonic() + grace_s - LEAVE_S
        self._stopping = True
        # A tick that goes on may still begin runs; one that hangs in the database will not.
        self._ticking.acquire(timeout=LEAVE_S)
        ended = self._runs.stop(max(0.5, deadline - time.monotonic()))
        try:
            self._runs.write_again()
            with database_errors("the runs were not given back"), self._direct.connect() as connection:
                given_back = runs.give_back(connection, self._presence.id, keep=[])
            if given_back or not ended:
                logger.warning("runs given back", extra={"count": given_back})
        except StoreUnavailable as error:
            logger.warning("%s; others take over when the lease ends", error)
        self._presence.close()
        self._engine.dispose()

    def _tick(self) -> Look:
        self._runs.end_overdue()
        self._runs.write_again()
        self._check_rows()
        if self._unsure:
            self._give_back_unknown()
        look = self._firing.look()
        if look.has_orphans and time.monotonic() >= self._no_take_over_before:
            self._take_over()
        if look.has_tasks:
            self._know_models()
        if look.is_due:
            self._firing.fire()
        if look.is_due or look.has_waiting or look.has_orphans:
            self._firing.enqueue_waiting()
            self._begin()
            look = self._firing.look()
        return look

    def _know_models(self) -> None:
        """Before the transactions that fire: in them the look is at memory alone, and it must not be of yesterday."""
        try:
            self._capabilities.current()
        except StoreUnavailable:
            # open: what is not known passes, as where tasks are accepted.
            logger.warning("what models can do was not read; tasks are enqueued as unknown")

    def _begin(self) -> None:
        free = self._runs.free
        if free == 0:
            return
        # Until the answer is here, it is not known what this process holds.
        self._unsure = True
        with database_errors("no run was begun"), self._direct.connect() as connection:
            held = runs.begin(connection, self._presence.id, jobs=list(self._jobs), limit=free)
        self._unsure = False
        for one in held:
            self._runs.start(one)

    def _take_over(self) -> None:
        with database_errors("no run was taken over"), self._direct.connect() as connection:
            count = runs.take_over(connection)
        if count:
            logger.warning("runs of a dead scheduler wait again", extra={"count": count})

    def _give_back_unknown(self) -> None:
        """A claim whose answer was lost is committed in our name, and nobody runs it."""
        holder: WorkerId = self._presence.id
        with database_errors("nothing was given back"), self._direct.connect() as connection:
            runs.give_back(connection, holder, keep=self._runs.held_ids())
        self._unsure = False

    def _check_rows(self) -> None:
        if time.monotonic() - self._rows_checked_at < CHECK_ROWS_EVERY_S:
            return
        self._rows_checked_at = time.monotonic()
        with database_errors("the jobs were not looked at"), self._engine.begin() as connection:
            rows.enable_returned(connection, self._jobs)


def _own_engine(app: App) -> sa.Engine:
    """Connections that no job can use up: a heartbeat that waits for one would cost this process its life."""
    url = app.settings.database_url
    if url is None:
        raise Misconfigured("HEADRACE_DATABASE_URL: not set")
    return connect_database(url.get_secret_value(), pool_size=CONNECTIONS)


def _until(look: Look) -> float | None:
    if look.next_fire is None:
        return None
    seconds = (look.next_fire - look.now).total_seconds()
    return seconds if 0 < seconds < EVERY_S else None
