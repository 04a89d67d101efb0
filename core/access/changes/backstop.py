"""
The thread that needs no Redis: every two seconds it looks at the table of changes itself, and relays what is not.

With the change log working it finds nothing new. With every message lost it is what makes a revocation effective.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from core.access.changes import doors
from core.access.changes import rows as change_rows
from core.access.changes.changes import Changes, read_change
from core.access.changes.doors import DoorRow
from core.access.changes.hearing import CURRENT_S, Hearing, now_s
from core.access.changes.rows import WINDOW_S, ChangeRow, Look
from core.access.limits.local_limiter import ALONE, Share
from core.connections import autocommit, database_errors
from core.errors import StoreUnavailable

logger = logging.getLogger(__name__)

EVERY_S = 2.0
PRUNE_EVERY_S = 60.0


class Backstop:
    """
    Args:
        engine: with a connection of its own: a pool that others wait for must not keep a revocation waiting.
        changes: on that engine.
        connection: number of the log's connection now, see `Follower`.
        door: this process's row among the live web processes; None: it is none.
    """

    def __init__(
        self,
        engine: sa.Engine,
        changes: Changes,
        hearing: Hearing,
        *,
        connection: Callable[[], int],
        door: DoorRow | None,
    ) -> None:
        self._engine = autocommit(engine)
        self._changes = changes
        self._hearing = hearing
        self._connection = connection
        self._door = door
        self._closing = False
        self._urged = threading.Event()
        self._looked_at: datetime | None = None
        self._looked_s = 0.0
        self._prune_at = now_s() + random.uniform(0.1, 1.0) * PRUNE_EVERY_S  # noqa: S311 (not all at once)
        self._away = False
        self.share = ALONE
        self.current_until = 0.0
        """Until then what was heard is all that was committed up to four seconds before."""
        self.clean_connection = -1
        """Connection of the log under which nothing unrelayed is left that Redis should have been told."""

    def run(self) -> None:
        """Until closed."""
        while not self._closing:
            self._urged.clear()
            try:
                self._look()
            except StoreUnavailable as error:
                if not self._away:
                    logger.warning("changes of rights are not read from the database: %s", error)
                self._away = True
            else:
                self._away = False
            self._urged.wait(EVERY_S)
        self._leave()
        self._engine.dispose()

    def urge(self) -> None:
        """Look now, and not only in two seconds."""
        self._urged.set()

    def close(self) -> None:
        self._closing = True
        self._urged.set()

    def _look(self) -> None:
        connection_number = self._connection()
        # First: who forgets a copy in memory must find no older one in Redis.
        self._changes.relay()
        began = now_s()
        known = self._hearing.known()
        with database_errors("changes of rights were not read"), self._engine.connect() as connection:
            look = change_rows.look(connection, known=known)
        is_clean = self._changes.drop_copies(look.rows) and look.is_complete
        self.clean_connection = connection_number if is_clean else -1
        self._tell(look, is_clean=is_clean, began=began)
        with database_errors("the live web processes were not counted"), self._engine.connect() as connection:
            self._look_at_doors(connection)

    def _tell(self, look: Look, *, is_clean: bool, began: float) -> None:
        previous = self._looked_at
        has_hole = (
            previous is None or (look.at - previous).total_seconds() > WINDOW_S or began - self._looked_s > WINDOW_S
        )
        with self._hearing.lock:
            if has_hole or not look.is_complete or any(row.change is None for row in look.rows):
                self.current_until = 0.0
                self._hearing.tell_gap()
            for row in look.rows:
                self._tell_row(row)
            if is_clean:
                self._hearing.know([row.id for row in look.rows])
        self._looked_at, self._looked_s = look.at, began
        self.current_until = began + CURRENT_S

    def _tell_row(self, row: ChangeRow) -> None:
        change = None if row.change is None else read_change(row.change)
        if change is not None:
            self._hearing.tell(change)

    def _look_at_doors(self, connection: sa.Connection) -> None:
        if self._door is not None:
            self.share = self._door.beat(connection)
        else:
            self.share = Share(max(1, doors.count_live(connection)))
        if now_s() >= self._prune_at:
            self._prune_at = now_s() + PRUNE_EVERY_S
            doors.prune(connection)
            change_rows.prune(connection)

    def _leave(self) -> None:
        if self._door is None:
            return
        try:
            with (
                database_errors("this process counts as a live door for a while"),
                self._engine.connect() as connection,
            ):
                self._door.leave(connection)
        except StoreUnavailable as error:
            logger.warning("%s", error)
