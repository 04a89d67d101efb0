"""
What one transaction of firing writes: runs, tasks and the schedules' new state, each kind in one statement.

Schedules that are due more often than once a minute keep skips and enqueued runs on their own row; a run that waits is
always a row of `schedule_runs`, since somebody is to take it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import orjson
import sqlalchemy as sa

from core.access.keys.permissions import check_lists, named_model
from core.errors import InvalidRequest
from core.ids import KeyId, new_task_id
from core.schedules import task_template
from core.schedules.due import Decision
from core.schedules.model import Missed, Overlap, Run, RunOutcome, ScheduleKind
from core.schedules.overlap import Verdict, admit
from core.schedules.rows import Row, timing_of, with_recent
from core.task_types.spec import TaskInput, TaskTypes
from core.tasks import accept
from core.tasks.model import NewTask

_MISSED = "nobody fired it in time"
_OVERLAP = {
    Overlap.SKIP: "the run before it goes on",
    Overlap.QUEUE: "another run waits already",
}

_INSERT_RUNS = """
INSERT INTO schedule_runs (id, schedule_id, due_at, until_at, due_times, outcome, reason, attempt, started_at,
    finished_at, lateness_s, task_id)
SELECT * FROM unnest(%(ids)s::uuid[], %(schedules)s::uuid[], %(dues)s::timestamptz[], %(untils)s::timestamptz[],
    %(counts)s::int[], %(outcomes)s::text[], %(reasons)s::text[], %(attempts)s::int[], %(starts)s::timestamptz[],
    %(ends)s::timestamptz[], %(lateness)s::float8[], %(tasks)s::text[])
"""

_UPDATE_RUNS = """
UPDATE schedule_runs r SET outcome = n.outcome, reason = coalesce(n.reason, r.reason), started_at = now(),
    finished_at = now(), attempt = 1, task_id = n.task_id, lateness_s = extract(epoch FROM now() - r.due_at)
FROM unnest(%(ids)s::uuid[], %(outcomes)s::text[], %(reasons)s::text[], %(tasks)s::text[])
    AS n(id, outcome, reason, task_id) WHERE r.id = n.id
"""

_UPDATE_SCHEDULES = """
UPDATE schedules s SET last_due = n.last_due, next_due = n.next_due, fire_at = n.fire_at, recent = n.recent,
    last_task_id = n.last_task_id, runs = s.runs + n.runs, failures = s.failures + n.failures,
    skips = s.skips + n.skips
FROM unnest(%(ids)s::uuid[], %(lasts)s::timestamptz[], %(nexts)s::timestamptz[], %(fires)s::timestamptz[],
    %(recents)s::text[], %(last_tasks)s::text[], %(runs)s::int[], %(failures)s::int[], %(skips)s::int[])
    AS n(id, last_due, next_due, fire_at, recent, last_task_id, runs, failures, skips)
WHERE s.id = n.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """
    What else must be known of a schedule to fire it.

    Args:
        active: a run goes on, or the last task is not final.
        refused: why the owner gets no task, e.g. its key is disabled; None: it does, or it is a job.
        allowed_types, allowed_models: of the owner's key; empty: all.
    """

    active: bool
    waiting: int
    refused: str | None
    allowed_types: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()


@dataclass(slots=True)
class _Change:
    """Of one schedule's row."""

    row: Row
    last_due: datetime | None
    next_due: datetime | None
    fire_at: datetime | None
    last_task_id: str | None
    kept: list[Run]
    runs: int = 0
    failures: int = 0
    skips: int = 0


class FirePlan:
    """
    Filled schedule by schedule, then written at once.

    Args:
        check_model: refuses what a task's model is known not to do; memory only.
    """

    def __init__(self, types: TaskTypes, check_model: Callable[[TaskInput], None]) -> None:
        self._types = types
        self._check_model = check_model
        self._new: list[tuple[UUID, Run]] = []
        self._ended: list[Run] = []
        self._changes: list[_Change] = []
        self._tasks: list[NewTask] = []

    @property
    def queues(self) -> set[str]:
        """Where tasks were enqueued: ring there after the commit."""
        return {task.queue for task in self._tasks}

    def add(self, row: Row, state: State, decision: Decision, *, fire_at: datetime | None) -> None:
        """A schedule whose due times have passed."""
        last_due = decision.last_due or row["last_due"]
        change = _Change(row, last_due, decision.next_due, fire_at, row["last_task_id"], [])
        self._changes.append(change)
        if decision.skipped is not None:
            gap = decision.skipped
            self._record(
                change,
                Run(
                    due_at=gap.first,
                    until_at=gap.last if gap.due_times > 1 else None,
                    due_times=gap.due_times,
                    outcome=RunOutcome.SKIPPED,
                    reason=_MISSED,
                ),
            )
        overlap, missed = Overlap(row["overlap"]), Missed(row["missed"])
        verdicts = admit(decision.fire, active=state.active, waiting=state.waiting, overlap=overlap, missed=missed)
        for due_at, verdict in verdicts:
            if verdict is Verdict.SKIP:
                self._record(change, Run(due_at=due_at, outcome=RunOutcome.SKIPPED, reason=_OVERLAP[overlap]))
            elif verdict is Verdict.WAIT or row["kind"] == ScheduleKind.JOB:
                self._new.append((row["id"], Run(id=new_task_id(), due_at=due_at, outcome=RunOutcome.WAITING)))
            else:
                self._record(change, self._enqueue(change, state, due_at))

    def add_waiting(self, row: Row, state: State) -> None:
        """A waiting run (`run_id`, `due_at`) of a schedule whose last task is final by now."""
        change = _Change(row, row["last_due"], row["next_due"], row["fire_at"], row["last_task_id"], [])
        run = self._enqueue(change, state, row["due_at"])
        self._count(change, run)
        self._changes.append(change)
        self._ended.append(replace(run, id=row["run_id"]))

    def write(self, connection: sa.Connection) -> None:
        """Everything; the tasks last, since accepting them locks the owners' ranks."""
        if self._new:
            connection.exec_driver_sql(_INSERT_RUNS, _run_columns(self._new))
        if self._ended:
            connection.exec_driver_sql(_UPDATE_RUNS, _end_columns(self._ended))
        connection.exec_driver_sql(_UPDATE_SCHEDULES, _change_columns(self._changes))
        if self._tasks:
            accept.insert(connection, self._tasks)

    def _enqueue(self, change: _Change, state: State, due_at: datetime) -> Run:
        row = change.row
        run = Run(
            due_at=due_at,
            outcome=RunOutcome.ENQUEUED,
            attempt=1,
            started_at=row["now"],
            finished_at=row["now"],
            lateness_s=(row["now"] - due_at).total_seconds(),
        )
        if state.refused is not None:
            # closed: no right outlives its revocation (law 6).
            return replace(run, outcome=RunOutcome.FAILED, reason=state.refused)
        try:
            template = task_template.read(orjson.loads(row["task"]))
            check_lists(state.allowed_types, state.allowed_models, template.type, named_model(template.input))
            owner = KeyId(row["owner_id"])
            task = task_template.new_task(template, self._types, owner=owner, check_model=self._check_model)
        except InvalidRequest as error:  # since it was saved the type went, or its model was found unable to do it
            return replace(run, outcome=RunOutcome.FAILED, reason=f"the task was refused: {error}"[:500])
        self._tasks.append(task)
        change.last_task_id = task.public_id
        return replace(run, task_id=task.public_id)

    def _record(self, change: _Change, run: Run) -> None:
        self._count(change, run)
        if timing_of(change.row).is_frequent:
            change.kept.append(run)
        else:
            self._new.append((change.row["id"], replace(run, id=new_task_id())))

    def _count(self, change: _Change, run: Run) -> None:
        if run.outcome is RunOutcome.SKIPPED:
            change.skips += run.due_times
            return
        change.runs += 1
        change.failures += run.outcome is RunOutcome.FAILED


def _run_columns(new: Sequence[tuple[UUID, Run]]) -> dict[str, object]:
    runs = [run for _, run in new]
    return {
        "ids": [run.id for run in runs],
        "schedules": [schedule_id for schedule_id, _ in new],
        "dues": [run.due_at for run in runs],
        "untils": [run.until_at for run in runs],
        "counts": [run.due_times for run in runs],
        "outcomes": [run.outcome.value for run in runs],
        "reasons": [run.reason for run in runs],
        "attempts": [run.attempt for run in runs],
        "starts": [run.started_at for run in runs],
        "ends": [run.finished_at for run in runs],
        "lateness": [run.lateness_s for run in runs],
        "tasks": [run.task_id for run in runs],
    }


def _end_columns(ended: Sequence[Run]) -> dict[str, object]:
    return {
        "ids": [run.id for run in ended],
        "outcomes": [run.outcome.value for run in ended],
        "reasons": [run.reason for run in ended],
        "tasks": [run.task_id for run in ended],
    }


def _change_columns(changes: Sequence[_Change]) -> dict[str, object]:
    return {
        "ids": [change.row["id"] for change in changes],
        "lasts": [change.last_due for change in changes],
        "nexts": [change.next_due for change in changes],
        "fires": [change.fire_at for change in changes],
        "recents": [
            with_recent(change.row, change.kept) if change.kept else change.row["recent"] for change in changes
        ],
        "last_tasks": [change.last_task_id for change in changes],
        "runs": [change.runs for change in changes],
        "failures": [change.failures for change in changes],
        "skips": [change.skips for change in changes],
    }
