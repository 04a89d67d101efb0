"""How rows of `schedules` and `schedule_runs` become values, and how a run is kept on its schedule's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from core.schedules.model import (
    RECENT_RUNS,
    Missed,
    Overlap,
    Run,
    RunOutcome,
    Schedule,
    ScheduleKind,
    Timing,
)
from core.schema import schedule_runs, schedules

Row = sa.RowMapping

_RECENT_TIMES = ("due_at", "until_at", "started_at", "finished_at")


def timing_of(row: Row) -> Timing:
    return Timing(
        name=row["name"],
        anchor_at=row["anchor_at"],
        cron=row["cron"],
        every_s=row["every_s"],
        timezone=row["timezone"],
        jitter_s=row["jitter_s"],
    )


def schedule_of(row: Row, last_run: Run | None = None) -> Schedule:
    """Args: last_run: the newest of its rows that is no skip; a newer one on the schedule's own row wins."""
    kept = [run for run in recent_of(row) if run.outcome is not RunOutcome.SKIPPED]
    newest = kept[0] if kept else None
    if newest is None or (last_run is not None and last_run.due_at > newest.due_at):
        newest = last_run
    return Schedule(
        id=row["id"],
        name=row["name"],
        kind=ScheduleKind(row["kind"]),
        timing=timing_of(row),
        missed=Missed(row["missed"]),
        overlap=Overlap(row["overlap"]),
        enabled=row["enabled"],
        owner_id=row["owner_id"],
        task=None if row["task"] is None else orjson.loads(row["task"]),
        last_due=row["last_due"],
        next_due=row["next_due"] if row["enabled"] else None,
        disabled_reason=row["disabled_reason"],
        version=row["version"],
        runs=row["runs"],
        failures=row["failures"],
        skips=row["skips"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        last_run=newest,
    )


def run_of(row: Row) -> Run:
    names = ("id", "due_at", "until_at", "due_times", "reason", "attempt", "started_at", "finished_at", "lateness_s")
    values: dict[str, Any] = {name: row[name] for name in (*names, "log", "task_id")}
    return Run(outcome=RunOutcome(row["outcome"]), task_state=row.get("task_state"), **values)


def recent_of(row: Row) -> list[Run]:
    """Runs kept on the row, newest first."""
    entries: list[dict[str, Any]] = orjson.loads(row["recent"])
    return [_from_entry(entry) for entry in entries]


def with_recent(row: Row, runs: Sequence[Run]) -> str:
    """The row's `recent` with these in front, the last one newest."""
    kept = [*reversed(runs), *recent_of(row)][:RECENT_RUNS]
    return orjson.dumps([_entry(run) for run in kept]).decode()


def _entry(run: Run) -> dict[str, Any]:
    return {key: value for key, value in asdict(run).items() if value is not None}


def _from_entry(entry: Mapping[str, Any]) -> Run:
    values = dict(entry)
    for name in _RECENT_TIMES:
        if name in values:
            values[name] = datetime.fromisoformat(values[name])
    values["outcome"] = RunOutcome(values["outcome"])
    return Run(**values)


SCHEDULE_COLUMNS = list(schedules.c)
RUN_COLUMNS = list(schedule_runs.c)
