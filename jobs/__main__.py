"""
`python -m jobs`: the scheduler line of the Procfile. For now its only job is to sweep, each second.

APScheduler is the clock, with its memory store: nothing it could lose or double matters, the sweep's state is rows.
Exit status: 0 stopped, 2 the settings cannot work, 70 the clock stopped (APScheduler 3.11's thread can die unseen).
"""

from __future__ import annotations

import logging
import signal
import sys
from datetime import UTC
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
from jobs.sweep import EVERY_S, Sweeping

logger = logging.getLogger(__name__)

LOOK_S = 1.0
CLOCK_STOPPED = 70  # EX_SOFTWARE


def main() -> int:
    stops = _Stops()
    try:
        settings = load_settings()
        setproctitle("headrace-scheduler")
        configure_logging(level=settings.log_level, format=settings.log_format, process="scheduler")
        # A sweep that waits for an absent database makes it warn each second of "running instances".
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        with open_app(settings) as app:
            return _run(app, stops) if _wait_for_database(app, stops) else 0
    except Misconfigured as error:
        print(error, file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    except Unavailable as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1


def _run(app: App, stops: _Stops) -> int:
    sweeping = Sweeping(Sweeper(app.engine, app.copies, app.bells, lease_s=app.settings.lease_s))
    scheduler: Any = BackgroundScheduler(timezone=UTC)  # apscheduler 3.11 is untyped
    scheduler.add_job(sweeping, "interval", seconds=EVERY_S, coalesce=True, max_instances=1, misfire_grace_time=None)
    scheduler.start()
    logger.info("scheduler started")
    try:
        while not stops.came_within(LOOK_S):
            if sweeping.has_stalled():
                logger.critical("the clock stopped")
                return CLOCK_STOPPED
    finally:
        scheduler.shutdown(wait=not sweeping.has_stalled())
    logger.info("scheduler stopped")
    return 0


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
