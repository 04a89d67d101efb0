"""
The rows of the jobs: made by the first scheduler that has a job's file, changed when the file says something else.

Whether a job is paused is a person's decision and stays. A job whose file is gone is disabled, with the reason, and
never deleted; when a scheduler has the file again it is enabled again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from core.ids import new_task_id
from core.schedules.model import RunOutcome, ScheduleKind
from core.schedules.table import upcoming
from core.schema import schedule_runs, schedules
from jobs.lookup import timing_of
from jobs.spec import JobSpec

logger = logging.getLogger(__name__)

GONE = "no scheduler has its file any more"

_IS_JOB = schedules.c.kind == ScheduleKind.JOB.value
_TIMING = ("cron", "every_s", "timezone", "jitter_s")


def write(connection: sa.Connection, jobs: Mapping[str, JobSpec]) -> None:
    """Bring the rows in line with the files; inside the caller's transaction, once, when a scheduler starts."""
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    for name in sorted(jobs):  # in one order: two schedulers that start together must not wait for each other in a ring
        _write_one(connection, jobs[name], now)
    _disable_gone(connection, jobs)


def enable_returned(connection: sa.Connection, jobs: Mapping[str, JobSpec]) -> None:
    """Jobs that were disabled for want of a file, by a scheduler of another version, and whose file is here."""
    query = sa.select(schedules.c.name).where(
        _IS_JOB, schedules.c.disabled_reason == GONE, schedules.c.name.in_(list(jobs))
    )
    names = list(connection.execute(query).scalars())
    if not names:
        return
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    for name in sorted(names):
        _write_one(connection, jobs[name], now)


def _write_one(connection: sa.Connection, spec: JobSpec, now: datetime) -> None:
    given = _given(spec)
    # Looked for before it is inserted: nearly always it is there, and an insert that conflicts costs a dead row.
    found = connection.execute(
        sa.select(schedules).where(_IS_JOB, schedules.c.name == spec.name).with_for_update()
    ).mappings()
    row = found.first()
    if row is None:
        new = {
            "id": new_task_id(),
            "name": spec.name,
            "kind": ScheduleKind.JOB.value,
            "enabled": True,
            "version": 1,
            "runs": 0,
            "failures": 0,
            "skips": 0,
            "recent": "[]",
            "created_at": now,
            "changed_at": now,
            **given,
            **upcoming(timing_of(spec), now),
        }
        connection.execute(insert(schedules).values(new).on_conflict_do_nothing())
        return
    values = {name: value for name, value in given.items() if row[name] != value}
    returned = row["disabled_reason"] is not None
    if returned:
        values |= {"enabled": True, "disabled_reason": None}
    if returned or not values.keys().isdisjoint(_TIMING):
        values |= upcoming(timing_of(spec), now, row["last_due"])
    if values:
        values |= {"changed_at": now}
        connection.execute(sa.update(schedules).where(schedules.c.id == row["id"]).values(values))


def _given(spec: JobSpec) -> dict[str, Any]:
    timing = timing_of(spec)
    return {
        "anchor_at": timing.anchor_at,
        "cron": timing.cron,
        "every_s": timing.every_s,
        "timezone": timing.timezone,
        "jitter_s": timing.jitter_s,
        "missed": spec.missed.value,
        "overlap": spec.overlap.value,
    }


def _disable_gone(connection: sa.Connection, jobs: Collection[str]) -> None:
    gone = sa.and_(_IS_JOB, schedules.c.name.not_in(list(jobs)))
    statement = (
        sa.update(schedules)
        .where(gone, schedules.c.enabled)
        .values(enabled=False, disabled_reason=GONE, changed_at=sa.func.now())
        .returning(schedules.c.name)
    )
    for name in connection.execute(statement).scalars():
        logger.error("job disabled: its file is gone", extra={"job": name})
    waiting = sa.select(schedules.c.id).where(gone, schedules.c.disabled_reason == GONE)
    connection.execute(
        sa.update(schedule_runs)
        .where(schedule_runs.c.outcome == RunOutcome.WAITING.value, schedule_runs.c.schedule_id.in_(waiting))
        .values(outcome=RunOutcome.FAILED.value, reason=GONE, finished_at=sa.func.now())
    )
