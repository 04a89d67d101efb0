"""
The rows of access_changes: which a process must look at, which are not relayed, which can go.

A row counts from when it is *seen*, not from `created_at`: that is written inside a transaction, which may commit a
minute later. So a row is unrelayed, or was relayed at a time that lies after its commit; looking at the unrelayed ones
and those relayed in the last `WINDOW_S` misses none, whatever was committed when. All times are the database's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

WINDOW_S = 15.0
MOST_LOOKED_AT = 2_000
MOST_RELAYED = 200  # rows of one transaction
MOST_BYTES = 64 * 1024  # of a change: about 300 keys. A larger one makes everybody forget everything

# The time is that before the snapshot, and always answered.
_LOOK = sa.text(
    """
    SELECT t.at, c.id, CASE WHEN octet_length(c.change) <= :most_bytes THEN c.change END, c.relayed_at IS NOT NULL
    FROM (SELECT statement_timestamp() AS at) t LEFT JOIN LATERAL (
        SELECT id, change, relayed_at FROM access_changes
        WHERE (relayed_at IS NULL OR relayed_at > t.at - make_interval(secs => :window_s))
            AND id <> ALL(CAST(:known AS uuid[]))
        LIMIT :most
    ) c ON true
    """
)
_TAKE = sa.text(
    """
    SELECT id, change, octet_length(change) > :most_bytes FROM access_changes
    WHERE relayed_at IS NULL ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED
    """
)
_RELAYED = sa.text("UPDATE access_changes SET relayed_at = clock_timestamp() WHERE id = ANY(CAST(:ids AS uuid[]))")
# Unrelayed for an hour, with no Redis there: twice as long as any entry that grants rights lives in Redis. They are
# marked before they are deleted, so that those who look at the table see them once more.
_ABANDON = sa.text(
    """
    UPDATE access_changes SET relayed_at = clock_timestamp()
    WHERE relayed_at IS NULL AND created_at < clock_timestamp() - interval '1 hour'
    """
)
_PRUNE = sa.text("DELETE FROM access_changes WHERE relayed_at < clock_timestamp() - interval '10 minutes'")


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """
    Args:
        change: JSON text; None: it is too large to look at.
        is_relayed: the change log had it, in whichever Redis there was.
    """

    id: UUID
    change: str | None
    is_relayed: bool


@dataclass(frozen=True, slots=True)
class Look:
    """
    Args:
        is_complete: False: there are more rows than `MOST_LOOKED_AT`.
        at: the database's time, from before the look.
    """

    rows: tuple[ChangeRow, ...]
    is_complete: bool
    at: datetime


def look(connection: sa.Connection, *, known: Sequence[UUID]) -> Look:
    """What was committed lately, but for the rows that the caller knows already. Autocommit."""
    values = {
        "most_bytes": MOST_BYTES,
        "window_s": WINDOW_S,
        "known": [str(id) for id in known],
        "most": MOST_LOOKED_AT + 1,
    }
    found = connection.execute(_LOOK, values).all()
    rows = tuple(ChangeRow(row[1], row[2], bool(row[3])) for row in found if row[1] is not None)
    return Look(rows[:MOST_LOOKED_AT], len(rows) <= MOST_LOOKED_AT, found[0][0])


@dataclass(frozen=True, slots=True)
class Taken:
    """An unrelayed row, locked until the transaction ends."""

    id: UUID
    change: str
    is_large: bool


def take(connection: sa.Connection) -> list[Taken]:
    """Unrelayed rows that nobody else is relaying, oldest first."""
    rows = connection.execute(_TAKE, {"most_bytes": MOST_BYTES, "most": MOST_RELAYED})
    return [Taken(*row) for row in rows]


def mark_relayed(connection: sa.Connection, rows: Sequence[Taken]) -> None:
    connection.execute(_RELAYED, {"ids": [str(row.id) for row in rows]})


def prune(connection: sa.Connection) -> None:
    """Delete what everybody has seen. Autocommit."""
    connection.execute(_ABANDON)
    connection.execute(_PRUNE)
