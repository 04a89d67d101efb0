"""
The writer's side of changes of rights: from the table of changes to the change log in Redis.

At least once: a process that dies between the log and the row's mark leaves a row that is relayed again. Nothing here
is needed for a revocation to take effect: without it the watch of every process finds the row within two seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import sqlalchemy as sa

from core.access.changes import rows as change_rows
from core.access.changes.log import Appended, ChangeLog
from core.access.changes.rows import MOST_RELAYED, ChangeRow, Taken
from core.connections import RedisAway, database_errors
from core.errors import StoreUnavailable
from core.events.access import Change, EntriesDropped, LimitsRefreshed, change_of, json_of

logger = logging.getLogger(__name__)

_MOST_S = 1.0  # of one call; whoever comes next takes the rest


class Changes:
    """
    Thread-safe.

    Args:
        log: None: this deployment does without Redis (HEADRACE_CACHE=memory).
    """

    def __init__(self, engine: sa.Engine, log: ChangeLog | None) -> None:
        self._engine = engine
        self._log = log

    def relay(self) -> int:
        """
        Bring committed rows that are not relayed yet to the change log; returns how many.

        To be called right after the commit of a change. Never raises for an absent Redis or database: the change is
        committed, and the watches find it by themselves.
        """
        relayed = 0
        try:
            until = time.monotonic() + _MOST_S
            while time.monotonic() < until:
                taken = self._relay_some()
                relayed += taken
                if taken < MOST_RELAYED:
                    break
        except (RedisAway, StoreUnavailable) as error:
            logger.debug("changes were not relayed", extra={"reason": type(error).__name__})
        return relayed

    def tell(self, change: LimitsRefreshed | EntriesDropped) -> None:
        """Append what no row stands for; at most once, and nobody hears it while Redis is away."""
        text = json_of(change)
        if self._log is None:
            return
        try:
            self._log.append([Appended("", change, text if len(text) <= change_rows.MOST_BYTES else None)])
        except RedisAway:
            logger.debug("nobody was told", extra={"kind": type(change).__name__})

    def drop_copies(self, rows: Sequence[ChangeRow]) -> bool:
        """
        Drop what Redis holds of these changes; whether that is done, or there is no Redis to hold anything.

        Also of those that were relayed: to another Redis than this process talks to, if it has not heard of them.
        """
        if self._log is None or not rows:
            return True
        try:
            self._log.bury([Appended("", read_change(row.change), b"") for row in rows if row.change is not None])
        except RedisAway:
            return False
        return all(row.change is not None or row.is_relayed for row in rows)

    def _relay_some(self) -> int:
        if self._log is not None and self._log.is_away:
            return 0
        # The lock on the rows keeps others from relaying them too; an append has a quarter of a second.
        with database_errors("changes were not relayed"), self._engine.begin() as connection:
            taken = change_rows.take(connection)
            if taken:
                if self._log is not None:  # else: every process looks at the rows themselves
                    self._log.append([_appended(row) for row in taken])
                change_rows.mark_relayed(connection, taken)
        return len(taken)


def read_change(text: str | bytes) -> Change | None:
    """None: of an unknown kind, or junk; what is junk is logged, and must not stop what comes after it."""
    try:
        return change_of(text)
    except (ValueError, KeyError, TypeError) as error:
        logger.error("a change cannot be read", extra={"reason": repr(error)})
        return None


def _appended(row: Taken) -> Appended:
    return Appended(str(row.id), read_change(row.change), None if row.is_large else row.change.encode())
