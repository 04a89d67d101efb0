"""The rows of `schedules`: found by name, completed with what ran last, changed, and moved to their next due time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from core.errors import ScheduleNotFound
from core.schedules import due
from core.schedules.history import last_runs
from core.schedules.model import Schedule, ScheduleKind, Timing
from core.schedules.rows import SCHEDULE_COLUMNS, Row, schedule_of
from core.schema import schedules


def find(connection: sa.Connection, name: str, kind: ScheduleKind, *, lock: bool = False) -> Row:
    query = sa.select(*SCHEDULE_COLUMNS).where(schedules.c.kind == kind.value, schedules.c.name == name)
    # PostgreSQL refuses a NUL in any text, and no name has one.
    row = None if "\x00" in name else connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise ScheduleNotFound(f"no {'job' if kind is ScheduleKind.JOB else 'schedule'} {name[:60]!r}")
    return row


def complete(connection: sa.Connection, rows: Sequence[Row]) -> list[Schedule]:
    last = last_runs(connection, [row["id"] for row in rows])
    return [schedule_of(row, last.get(row["id"])) for row in rows]


def store(connection: sa.Connection, row: Row, values: Mapping[str, Any]) -> Row:
    changed = {**values, "version": row["version"] + 1, "changed_at": sa.func.now()}
    statement = sa.update(schedules).where(schedules.c.id == row["id"]).values(changed)
    return connection.execute(statement.returning(*SCHEDULE_COLUMNS)).mappings().one()


def upcoming(timing: Timing, now: datetime, last_due: datetime | None = None) -> dict[str, Any]:
    """The columns of the first due time after now, and never one that is done with: clocks may be set back."""
    next_due = due.following(timing, now if last_due is None else max(now, last_due))
    return {"next_due": next_due, "fire_at": None if next_due is None else due.fire_time(timing, next_due)}
