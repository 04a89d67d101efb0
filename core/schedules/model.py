"""
What a schedule and a run of one are. Pure values; the rows are documented in `core/schema.py`.

A schedule is a job (a file in `jobs/periodic/`, run inside a scheduler) or a person's own, which enqueues a task.
Each due time has one run or belongs to one recorded skip (law 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

FREQUENT_S = 60.0  # a shorter period keeps its last runs on the schedule's row: a row each would be 17,000 a day
RECENT_RUNS = 20


class ScheduleKind(StrEnum):
    JOB = "job"
    """Run by a scheduler process; the row is made by the first scheduler that has its file."""
    TASK = "task"
    """Made by a person; each fire enqueues a task for its owner."""


class Missed(StrEnum):
    """What happens with due times that nobody fired in time."""

    SKIP = "skip"
    """Only the newest is fired, and only if it is less than 60 s (and half a period) late; the others are recorded."""
    LATEST = "latest"
    """The newest is fired, however late; the others are recorded."""
    ALL = "all"
    """The newest hundred are fired; older ones are recorded."""


class Overlap(StrEnum):
    """What happens with a due time while the run before it goes on."""

    SKIP = "skip"
    """Recorded as skipped."""
    QUEUE = "queue"
    """Runs after it; while one waits, further ones are recorded as skipped."""


class RunOutcome(StrEnum):
    """Where a run stands; the last four are never left."""

    WAITING = "waiting"
    """Fired, asked for by a person, or returned by a dead or stopping scheduler. Left by whoever begins it."""
    RUNNING = "running"
    """A scheduler runs it (`holder_id`, `attempt`). Left by its finish, or back to waiting when the holder dies."""
    SUCCEEDED = "succeeded"
    """The job returned."""
    FAILED = "failed"
    """The job raised or took too long, three schedulers died of it, or the task could not be enqueued."""
    ENQUEUED = "enqueued"
    """The task was enqueued in the same transaction; its own state says the rest."""
    SKIPPED = "skipped"
    """Not run, for the reason given; may stand for a range of due times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """
    When a schedule is due: `cron` in `timezone`, or each `every_s` seconds counted from `anchor_at`.

    Args:
        name: with the due time it decides the jitter, the same in every process.
        jitter_s: a due time is fired up to so much later.
    """

    name: str
    anchor_at: datetime
    cron: str | None = None
    every_s: float | None = None
    timezone: str = "UTC"
    jitter_s: float = 0.0

    @property
    def text(self) -> str:
        """As a person reads it: `0 2 * * * Europe/Berlin`, `every 90 s`."""
        if self.cron is None:
            return f"every {self.every_s:g} s"
        return self.cron if self.timezone == "UTC" else f"{self.cron} {self.timezone}"

    @property
    def is_frequent(self) -> bool:
        return self.every_s is not None and self.every_s < FREQUENT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    One run, or one recorded skip.

    Args:
        id: None for a run that is kept on the schedule's row.
        until_at: of a skipped range, its last due time.
        due_times: how many due times it stands for; 1 but for ranges.
        reason: why it was skipped, why it failed, or what the job said at its end.
        lateness_s: start minus due time.
        task_state: of an enqueued task, where it stands now; None when it is gone.
    """

    due_at: datetime
    outcome: RunOutcome
    id: UUID | None = None
    until_at: datetime | None = None
    due_times: int = 1
    reason: str | None = None
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lateness_s: float | None = None
    log: str | None = None
    task_id: str | None = None
    task_state: str | None = None

    @property
    def took_s(self) -> float | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Newest due time first; `next_cursor` is None on the last page."""

    runs: list[Run]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """
    A row of `schedules`.

    Args:
        task: of kind TASK: `{"type", "input", "queue", ...}` as it was given.
        disabled_reason: why it is not enabled, when no person did that.
        last_run: the newest that began or ended, skips left out; None before the first.
    """

    id: UUID
    name: str
    kind: ScheduleKind
    timing: Timing
    missed: Missed
    overlap: Overlap
    enabled: bool
    owner_id: str | None
    task: dict[str, Any] | None
    last_due: datetime | None
    next_due: datetime | None
    disabled_reason: str | None
    version: int
    runs: int
    failures: int
    skips: int
    created_at: datetime
    changed_at: datetime
    last_run: Run | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePage:
    """By name; `next_cursor` is None on the last page."""

    schedules: list[Schedule]
    next_cursor: str | None
