"""
What a job is: one file in `jobs/periodic/` that declares `JOB = JobSpec(...)`.

A job runs inside a scheduler process, at least once for each due time that is fired: after a crash another scheduler
runs it again, so say in its docstring why that is harmless. It is short: what calls the network enqueues a task.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.app import App
from core.schedules.model import Missed, Overlap


class JobStopped(Exception):
    """Raised by a job that ends before its end because it was asked to: another scheduler runs it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """
    One run of a job.

    Args:
        attempt: 2 and more after a scheduler died of it, or with it.
        stop: set when the scheduler stops, the time is up, or the run is another's by now: end soon.
        log: its last lines are kept with the run.
    """

    app: App
    name: str
    due_at: datetime
    attempt: int
    log: logging.Logger
    stop: threading.Event = field(default_factory=threading.Event)

    def pause(self, seconds: float) -> None:
        """
        Wait, for no longer than the run may go on.

        Raises:
            JobStopped: it was asked to stop.
        """
        if self.stop.wait(seconds):
            raise JobStopped(f"{self.name} was asked to stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """
    Args:
        name: as people call it; the file's name.
        run: returns a line for the history, e.g. `archived 12 tasks`, or None. What it raises is a failed run.
        every, cron: one of the two; `every` counts from 2000-01-01T00:00Z, whenever the scheduler started.
        timezone: of `cron`, an IANA name.
        jitter: a run starts up to so much after its due time.
        timeout: from then on the run is failed, whatever its thread does.
    """

    name: str
    run: Callable[[JobContext], str | None]
    every: timedelta | None = None
    cron: str | None = None
    timezone: str = "UTC"
    missed: Missed = Missed.LATEST
    overlap: Overlap = Overlap.SKIP
    jitter: timedelta = timedelta()
    timeout: timedelta = timedelta(minutes=5)
