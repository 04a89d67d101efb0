"""
`python -m jobs`: the scheduler line of the Procfile. Any number of them may run; each also sweeps, every second.

APScheduler is the clock, with its memory store: nothing it could lose or double matters, what is due is said by rows.
Exit status: 0 stopped, 2 the settings cannot work, 70 the clock stopped (APScheduler 3.11's thread can die unseen), the
watch of rights died or too many jobs hang; whatever runs the Procfile starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

# apscheduler 3.11 ships no types.
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
from setproctitle import setproctitle

from core.app import App, open_app
from core.errors import Misconfigured, StoreUnavailable, Unavailable
from core.logs import configure_logging
from core.settings import load_settings
from core.supervision import MISCONFIGURED
from core.tasks.sweeper import Sweeper
from jobs.lookup import load_jobs
from jobs.run_log import RunLogHandler
from jobs.scheduler import EVERY_S, Scheduler
from jobs.spec import JobSpec
from jobs.sweep import EVERY_S as SWEEP_EVERY_S
from jobs.sweep import Sweeping

logger = logging.getLogger(__name__)

LOOK_S = 1.0
CLOCK_STOPPED = 70  # EX_SOFTWARE
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def main(package: str = "jobs.periodic") -> int:
    """Args: package: whose modules are the jobs."""
    stops = _Stops()
    try:
        settings = load_settings()
        setproctitle("headrace-scheduler")
        configure_logging(level=settings.log_level, format=settings.log_format, process="scheduler")
        # A sweep that waits for an absent database makes it warn each second of "running instances".
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        with open_app(settings) as app:
            # Before the wait: a long one is an outage in which nobody could say that it lives.
            sweeper = Sweeper(app.engine, app.copies, app.bells, lease_s=settings.lease_s)
            return _run(app, sweeper, load_jobs(package), stops) if _wait_for_database(app, stops) else 0
    except Misconfigured as error:
        print(error, file=sys.stderr)  # noqa: T201 (what the command says)
        return MISCONFIGURED
    except Unavailable as error:
        print(error, file=sys.stderr)  # noqa: T201 (what the command says)
        return 1


def _run(app: App, sweeper: Sweeper, jobs: Mapping[str, JobSpec], stops: _Stops) -> int:
    sweeping = Sweeping(sweeper, app.access.renewal)
    scheduler = Scheduler(app, jobs)
    while not _started(scheduler):
        if stops.came_within(1.0):
            return 0
    logging.getLogger().addHandler(RunLogHandler())
    with suppress(Unavailable):  # the job cache_capabilities, and each web process, make up for it
        app.discoveries.request_stale()
    app.access.start()
    clock = _Clock(sweeping, scheduler)
    logger.info("scheduler started", extra={"jobs": sorted(jobs)})
    status = 0
    while not stops.came_within(LOOK_S):
        if clock.has_stopped():
            logger.critical("the clock stopped")
            logging.shutdown()
            # Leaving in order would wait for the thread that hangs.
            os._exit(CLOCK_STOPPED)
        if not app.access.is_alive():
            logger.critical("a thread that follows rights died; this process makes room for another")
            status = CLOCK_STOPPED
            break
        if scheduler.is_worn_out():
            logger.critical("too many jobs hang; this process makes room for another")
            status = CLOCK_STOPPED
            break
    clock.stop()
    scheduler.stop(app.settings.shutdown_grace_s)
    logger.info("scheduler stopped")
    return status


def _started(scheduler: Scheduler) -> bool:
    try:
        scheduler.start()
    except StoreUnavailable as error:
        logger.warning("%s", error)
        return False
    return True


class _Clock:
    """APScheduler, as nothing but a clock: each whole second, and at the time of a fire that is sooner."""

    def __init__(self, sweeping: Sweeping, scheduler: Scheduler) -> None:
        self._sweeping = sweeping
        self._scheduler = scheduler
        self._background: Any = BackgroundScheduler(timezone=UTC)  # apscheduler 3.11 is untyped
        often = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._background.add_job(sweeping, "interval", seconds=SWEEP_EVERY_S, **often)
        # Counted from a whole second: schedules are due on those.
        self._background.add_job(self._tick, "interval", seconds=EVERY_S, start_date=_EPOCH, **often)
        self._background.start()

    def has_stopped(self) -> bool:
        return self._sweeping.has_stalled() or self._scheduler.has_stalled()

    def stop(self) -> None:
        self._background.shutdown(wait=False)

    def _tick(self) -> None:
        sooner_s = self._scheduler.tick()
        if sooner_s is not None:
            at = datetime.now(UTC) + timedelta(seconds=sooner_s)
            self._background.add_job(
                self._tick, "date", run_date=at, id="nearest", replace_existing=True, misfire_grace_time=None
            )


class _Stops:
    """SIGTERM and SIGINT, the second the same as the first."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[None] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def came_within(self, timeout_s: float) -> bool:
        try:
            self._asked.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked.put(None)


def _wait_for_database(app: App, stops: _Stops) -> bool:
    """False when asked to stop before it answered."""
    pause_s, told = 0.1, False
    while True:
        try:
            app.check()
            return True
        except StoreUnavailable:
            if not told:
                logger.warning("waiting for the database")
            told = True
        if stops.came_within(pause_s):
            return False
        pause_s = min(pause_s * 2, 2.0)


if __name__ == "__main__":
    sys.exit(main())
