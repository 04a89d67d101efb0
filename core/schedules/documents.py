"""
Schedules, jobs and runs as people and programs outside see them: the same members in HTTP answers and with `--json`.

Times are `datetime`: whoever writes the JSON makes them RFC 3339. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from core.schedules.model import Run, Schedule

Document = dict[str, Any]  # a task's input has any shape


def job_document(job: Schedule) -> Document:
    """
    `reason`: why it is not enabled, when no person did that.

    `{"name": "prune", "schedule": "every 3600 s", "enabled": true, "reason": null, "next_due": ..., "last_run": {...}}`
    """
    return {
        "name": job.name,
        "schedule": job.timing.text,
        **_counts(job),
        "last_run": None if job.last_run is None else run_document(job.last_run),
    }


def schedule_document(
    schedule: Schedule, *, fires: Sequence[datetime] | None = None, runs: Sequence[Run] | None = None
) -> Document:
    """
    Args:
        fires: the next due times, when they are wanted.
        runs: the newest runs, when they are wanted.
    """
    timing = schedule.timing
    document: Document = {
        "name": schedule.name,
        "cron": timing.cron,
        "every_s": timing.every_s,
        "timezone": timing.timezone,
        "jitter_s": timing.jitter_s,
        "missed": schedule.missed,
        "overlap": schedule.overlap,
        "owner": schedule.owner_id,
        "task": schedule.task,
        "version": schedule.version,
        **_counts(schedule),
        "created_at": schedule.created_at,
        "changed_at": schedule.changed_at,
    }
    if fires is not None:
        document["fires"] = list(fires)
    if runs is not None:
        document["last_runs"] = [run_document(run) for run in runs]
    return document


def run_document(run: Run) -> Document:
    """
    `due_times` over 1: a skipped range, from `due_at` to `until_at`. `lateness_s`: start minus due time.

    `{"due_at": ..., "outcome": "succeeded", "reason": null, "duration_s": 0.4, "lateness_s": 0.02, "log": "...", ...}`
    """
    return {
        "due_at": run.due_at,
        "until_at": run.until_at,
        "due_times": run.due_times,
        "outcome": run.outcome,
        "reason": run.reason,
        "attempt": run.attempt,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "duration_s": run.took_s,
        "lateness_s": run.lateness_s,
        "log": run.log,
        "task_id": run.task_id,
        "task_state": run.task_state,
    }


def _counts(schedule: Schedule) -> Document:
    return {
        "enabled": schedule.enabled,
        "reason": schedule.disabled_reason,
        "next_due": schedule.next_due if schedule.enabled else None,
        "last_due": schedule.last_due,
        "runs": schedule.runs,
        "failures": schedule.failures,
        "skips": schedule.skips,
    }
