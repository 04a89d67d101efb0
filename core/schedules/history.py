"""What the runs of a schedule did: rows of `schedule_runs`, and for frequent ones the list on the schedule's row."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from core.errors import InvalidRequest
from core.ids import new_task_id
from core.schedules.model import Run, RunOutcome, RunPage
from core.schedules.rows import RUN_COLUMNS, Row, recent_of, run_of
from core.schema import schedule_runs, tasks

_WITH_TASK = sa.select(*RUN_COLUMNS, tasks.c.state.label("task_state")).select_from(
    schedule_runs.outerjoin(tasks, tasks.c.public_id == schedule_runs.c.task_id)
)


def page_of_runs(connection: sa.Connection, schedule: Row, *, limit: int, cursor: str | None) -> RunPage:
    """
    Raises:
        InvalidRequest: a cursor that is not ours.
    """
    before = None if cursor is None else _decode(cursor)
    query = _WITH_TASK.where(schedule_runs.c.schedule_id == schedule["id"])
    if before is not None:
        query = query.where(schedule_runs.c.due_at < before)
    rows = connection.execute(query.order_by(schedule_runs.c.due_at.desc()).limit(limit + 1)).mappings()
    found = [run_of(row) for row in rows]
    found += [run for run in _recent(connection, schedule) if before is None or run.due_at < before]
    found.sort(key=lambda run: run.due_at, reverse=True)
    return RunPage(runs=found[:limit], next_cursor=_encode(found[limit - 1].due_at) if len(found) > limit else None)


def last_runs(connection: sa.Connection, schedule_ids: Sequence[UUID]) -> dict[UUID, Run]:
    """By schedule, its newest row that is no skip."""
    if not schedule_ids:
        return {}
    wanted = sa.select(sa.func.unnest(sa.literal(list(schedule_ids), sa.ARRAY(sa.Uuid))).label("id")).subquery()
    newest = (
        sa.select(*RUN_COLUMNS, tasks.c.state.label("task_state"))
        .select_from(schedule_runs.outerjoin(tasks, tasks.c.public_id == schedule_runs.c.task_id))
        .where(schedule_runs.c.schedule_id == wanted.c.id, schedule_runs.c.outcome != RunOutcome.SKIPPED.value)
        .order_by(schedule_runs.c.due_at.desc())
        .limit(1)
        .lateral()
    )
    rows = connection.execute(sa.select(*newest.c).select_from(wanted.join(newest, sa.true()))).mappings()
    return {row["schedule_id"]: run_of(row) for row in rows}


def add_waiting(connection: sa.Connection, schedule_id: UUID, *, reason: str) -> Run:
    """A run due now; the one that waits already, if there is one. The caller has locked the schedule."""
    waits = _WITH_TASK.where(
        schedule_runs.c.schedule_id == schedule_id, schedule_runs.c.outcome == RunOutcome.WAITING.value
    )
    row = connection.execute(waits.order_by(schedule_runs.c.due_at).limit(1)).mappings().first()
    if row is None:
        values = {
            "id": new_task_id(),
            "schedule_id": schedule_id,
            "due_at": sa.func.clock_timestamp(),
            "due_times": 1,
            "outcome": RunOutcome.WAITING.value,
            "reason": reason,
            "attempt": 0,
        }
        statement = sa.insert(schedule_runs).values(values).returning(*RUN_COLUMNS)
        row = connection.execute(statement).mappings().one()
    return run_of(row)


def _recent(connection: sa.Connection, schedule: Row) -> list[Run]:
    """The runs on the schedule's row, with the states of their tasks."""
    kept = recent_of(schedule)
    ids = [run.task_id for run in kept if run.task_id is not None]
    if not ids:
        return kept
    found = connection.execute(sa.select(tasks.c.public_id, tasks.c.state).where(tasks.c.public_id.in_(ids)))
    states = {row[0]: row[1] for row in found}
    return [replace(run, task_state=states.get(run.task_id)) for run in kept]


def _encode(due_at: datetime) -> str:
    return base64.urlsafe_b64encode(due_at.isoformat().encode()).rstrip(b"=").decode()


def _decode(text: str) -> datetime:
    padded = text + "=" * (-len(text) % 4)
    try:
        at = datetime.fromisoformat(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidRequest("cursor is not one that this server made; start without it", field="cursor")
    return at
