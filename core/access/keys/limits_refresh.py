"""
What the job `refresh_rate_limits` does each 30 s: tell every process which limits changed lately, and renew the copies.

No place is kept: each refresh tells what changed in the last two minutes, so a change is told four times over, one that
committed late is not left out, and any scheduler may run it. Who heard nothing for 45 s reads for itself
(core/access/keys/key_limits.py), so nothing is lost while no scheduler runs. A key told twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from core.access.keys.key_limits import CountedLimits
from core.access.keys.peppers import Peppers
from core.access.keys.rows import limits_of
from core.access.tables import virtual_keys
from core.connections import database_errors
from core.events.access import ChangedKey, LimitsRefreshed
from core.ids import KeyId

EVERY = timedelta(seconds=30)
WINDOW = timedelta(seconds=120)
BATCH = 500  # keys in one message: some 100 kB

_c = virtual_keys.c


class LimitsRefresh:
    """
    Args:
        tell: carries a change to every process, at most once.
        write: replaces a copy in Redis; see core/access/keys/limit_copies.py.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[sa.Connection]],
        peppers: Peppers,
        *,
        tell: Callable[[LimitsRefreshed], None],
        write: Callable[[str, CountedLimits], None],
    ) -> None:
        self._connect = connect
        self._peppers = peppers
        self._tell = tell
        self._write = write

    def run(self) -> int:
        """
        Tell what changed lately, also when nothing did: that is a sign of life. How many keys changed.

        Raises:
            StoreUnavailable: the next one tells it.
        """
        total = 0
        after: tuple[Any, str] | None = None
        while True:
            rows = self._read(after)
            keys = tuple(self._changed(row) for row in rows)
            if keys or total == 0:
                self._tell(LimitsRefreshed(keys))
            total += len(rows)
            if len(rows) < BATCH:
                return total
            after = rows[-1]["changed_at"], rows[-1]["key_id"]

    def _read(self, after: tuple[Any, str] | None) -> list[sa.RowMapping]:
        query = (
            sa.select(virtual_keys)
            .where(_c.changed_at > sa.func.now() - WINDOW)
            .order_by(_c.changed_at, _c.key_id)
            .limit(BATCH)
        )
        if after is not None:
            start = sa.tuple_(sa.literal(after[0], _c.changed_at.type), sa.literal(after[1], _c.key_id.type))
            query = query.where(sa.tuple_(_c.changed_at, _c.key_id) > start)
        with database_errors("the limits were not refreshed"), self._connect() as connection:
            return list(connection.execute(query).mappings())

    def _changed(self, row: sa.RowMapping) -> ChangedKey:
        hashes = self._hashes(row)
        limits = limits_of(row)
        for entry_id in hashes:
            self._write(entry_id, CountedLimits(limits, row["version"]))
        return ChangedKey(KeyId(row["key_id"]), row["version"], hashes, limits)

    def _hashes(self, row: sa.RowMapping) -> tuple[str, ...]:
        """Copies are named by hashes under the current pepper only; a deleted key has none."""
        if row["deleted_at"] is not None:
            return ()
        pairs = (("key_hash", "pepper_version"), ("previous_hash", "previous_pepper_version"))
        return tuple(bytes(row[hash]).hex() for hash, version in pairs if row[version] == self._peppers.current)
