"""
The runs of this process: each in a thread of its own, a bounded number of them, each with a time of its own.

A job that hangs is failed when its time is up and its thread abandoned, since Python cannot end one; the others do not
notice. What a run did is written at once, and again with each tick while the database is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from core.app import App
from core.connections import autocommit, database_errors
from core.errors import StoreUnavailable
from core.ids import WorkerId
from core.logs import bind
from core.schedules import runs
from core.schedules.model import RunOutcome
from core.schedules.runs import Ending, Held
from jobs.run_log import Lines, excerpt, kept_lines, no_lines, storable
from jobs.spec import JobContext, JobSpec, JobStopped

logger = logging.getLogger(__name__)

SLOTS = 8
MOST_ABANDONED = 4  # threads that hang: then the process makes room for a fresh one
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class _Active:
    held: Held
    ctx: JobContext
    began_at: float
    ends_at: float
    lines: Lines


class Runs:
    """
    Thread-safe.

    Args:
        engine: for what is written of the runs; the jobs use the application's.
    """

    def __init__(self, app: App, jobs: Mapping[str, JobSpec], engine: sa.Engine) -> None:
        self._app = app
        self._jobs = jobs
        self._engine: sa.Engine = autocommit(engine)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._active: dict[tuple[UUID, int], _Active] = {}
        self._abandoned = 0
        self._writing: set[UUID] = set()
        self._unwritten: deque[tuple[Held, Ending]] = deque()

    @property
    def free(self) -> int:
        """Runs that may begin now."""
        with self._lock:
            return max(0, SLOTS - len(self._active))

    @property
    def has_too_many_abandoned(self) -> bool:
        with self._lock:
            return self._abandoned >= MOST_ABANDONED

    def held_ids(self) -> list[UUID]:
        """Every run that this process will still write the end of."""
        with self._lock:
            return [key[0] for key in self._active] + [held.id for held, _ in self._unwritten] + list(self._writing)

    def start(self, held: Held) -> None:
        spec = self._jobs[held.job]
        log = logging.getLogger(f"jobs.periodic.{held.job}")
        ctx = JobContext(app=self._app, name=held.job, due_at=held.due_at, attempt=held.attempt, log=log)
        now = time.monotonic()
        active = _Active(held, ctx, now, now + spec.timeout.total_seconds(), no_lines())
        with self._lock:
            self._active[held.id, held.attempt] = active
        threading.Thread(target=self._run, args=(spec, active), name=f"job {held.job}", daemon=True).start()

    def end_overdue(self) -> None:
        """Fail the runs whose time is up; their threads are left to themselves."""
        now = time.monotonic()
        with self._lock:
            overdue = [active for active in self._active.values() if now >= active.ends_at]
        for active in overdue:
            if self._let_go(active, abandoned=True):
                active.ctx.stop.set()
                spec = self._jobs[active.held.job]
                logger.error("job timed out", extra={"job": spec.name, "timeout_s": spec.timeout.total_seconds()})
                reason = f"timed_out: it took longer than {spec.timeout.total_seconds():g} s"
                self._write(active.held, self._ending(active, RunOutcome.FAILED, reason))

    def write_again(self) -> None:
        """
        What could not be written before.

        Raises:
            StoreUnavailable: it still cannot.
        """
        while self._unwritten:
            held, ending = self._unwritten[0]
            self._finish(held, ending)
            self._unwritten.popleft()

    def drop(self, holder: WorkerId) -> None:
        """That holder is dead: its runs are another's. They are asked to stop, and what they say is ignored."""
        with self._lock:
            lost = [active for active in self._active.values() if active.held.holder == holder]
        for active in lost:
            if self._let_go(active, abandoned=True):
                self._written(active.held)
            active.ctx.stop.set()

    def stop(self, timeout_s: float) -> bool:
        """Ask all runs to stop; True when all ended in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            for active in self._active.values():
                active.ctx.stop.set()
            while (self._active or self._writing) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._active and not self._writing

    def _run(self, spec: JobSpec, active: _Active) -> None:
        held = active.held
        with bind(job=held.job, attempt=held.attempt), kept_lines(active.lines):
            outcome, reason = self._call(spec, active.ctx)
        if outcome is None:
            # Stopped before its end: given back when this process has stopped, as if it had not begun.
            self._let_go(active, abandoned=False)
            self._written(held)
        elif self._let_go(active, abandoned=False):
            self._write(held, self._ending(active, outcome, reason))

    def _call(self, spec: JobSpec, ctx: JobContext) -> tuple[RunOutcome | None, str | None]:
        try:
            said = spec.run(ctx)
        # Broad: whatever a job raises, SystemExit included, is its own run's failure.
        except (Exception, SystemExit) as error:
            if isinstance(error, JobStopped) and ctx.stop.is_set():
                return None, None
            logger.exception("job failed")
            return RunOutcome.FAILED, f"{type(error).__name__}: {error}"
        return RunOutcome.SUCCEEDED, said

    def _ending(self, active: _Active, outcome: RunOutcome, reason: str | None) -> Ending:
        return Ending(
            outcome=outcome,
            reason=None if reason is None else storable(str(reason), _LONGEST_REASON),
            log=excerpt(active.lines),
            took=timedelta(seconds=time.monotonic() - active.began_at),
        )

    def _let_go(self, active: _Active, *, abandoned: bool) -> bool:
        """Whether the run was still ours to end; a thread that ends after it was abandoned is none any more."""
        with self._changed:
            ours = self._active.pop((active.held.id, active.held.attempt), None) is not None
            if ours:
                self._writing.add(active.held.id)
            if ours and abandoned:
                self._abandoned += 1
            elif not ours and not abandoned:
                self._abandoned -= 1
            self._changed.notify_all()
            return ours

    def _write(self, held: Held, ending: Ending) -> None:
        try:
            self._finish(held, ending)
        except StoreUnavailable:
            self._unwritten.append((held, ending))
        finally:
            self._written(held)

    def _written(self, held: Held) -> None:
        """Nothing more of it is on its way, except what waits in `_unwritten`."""
        with self._changed:
            self._writing.discard(held.id)
            self._changed.notify_all()

    def _finish(self, held: Held, ending: Ending) -> None:
        with database_errors("the end of a run was not written"), self._engine.connect() as connection:
            ours = runs.finish(connection, held, ending)
        extra = {"job": held.job, "outcome": ending.outcome.value, "took_s": round(ending.took.total_seconds(), 3)}
        if not ours:
            logger.warning("run was another's by the time it ended", extra=extra)
            return
        routine = held.is_frequent and ending.outcome is RunOutcome.SUCCEEDED
        logger.log(logging.DEBUG if routine else logging.INFO, "run ended", extra=extra)
