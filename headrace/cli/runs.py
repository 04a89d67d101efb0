"""How the commands of jobs and schedules show due times and runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from core.schedules.documents import run_document
from core.schedules.model import Run, RunPage, Schedule, ScheduleKind
from headrace.cli.output import ago, note, say_json, say_table


def local(at: datetime, timezone: str) -> str:
    """`2026-03-29 03:00:00 CEST`: in the schedule's own zone, since that is how it was meant."""
    return at.astimezone(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M:%S %Z")


def say_fires(fires: Sequence[datetime], timezone: str) -> None:
    say_table(("FIRES", "WHEN"), [(local(fire, timezone), ago(fire)) for fire in fires])


def outcome(run: Run | None) -> str:
    """`succeeded in 0.4 s, 0.0 s late`; `enqueued task_... (completed)`."""
    if run is None:
        return "-"
    words = [str(run.outcome)]
    if run.took_s is not None:
        words.append(f"in {run.took_s:.1f} s")
    if run.task_id is not None:
        words.append(f"{run.task_id} ({run.task_state or 'gone'})")
    if run.due_times > 1:
        words.append(f"{run.due_times} due times")
    text = " ".join(words)
    return text if run.lateness_s is None else f"{text}, {run.lateness_s:.1f} s late"


def say_history(page: RunPage, *, as_json: bool) -> None:
    if as_json:
        say_json({"runs": [run_document(run) for run in page.runs], "next_cursor": page.next_cursor})
        return
    rows = [(f"{run.due_at:%Y-%m-%d %H:%M:%S}Z", outcome(run), run.reason or "-") for run in page.runs]
    say_table(("DUE", "OUTCOME", "REASON"), rows)
    if page.next_cursor is not None:
        note(f"there are more: --cursor {page.next_cursor}")


def state(schedule: Schedule) -> str:
    """`enabled`, `paused` of a job and `disabled` of a schedule, or `disabled: reason` when no person did that."""
    if schedule.enabled:
        return "enabled"
    if schedule.disabled_reason is not None:
        return f"disabled: {schedule.disabled_reason}"
    return "paused" if schedule.kind is ScheduleKind.JOB else "disabled"
