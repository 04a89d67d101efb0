"""A scheduler that ticks in a thread of the test, with jobs of the test's own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from core.app import App
from jobs import rows
from jobs.run_log import RunLogHandler
from jobs.scheduler import Scheduler
from jobs.spec import JobContext, JobSpec

TICK_S = 0.05


def greet(context: JobContext) -> str:
    context.log.info("greeting")
    return "greeted the world"


def refuse(context: JobContext) -> str:
    context.log.warning("about to fail")
    raise RuntimeError("no greeting today")


def write_jobs(app: App, jobs: Sequence[JobSpec]) -> None:
    """The rows that a scheduler with these jobs makes when it starts; nobody runs them."""
    with app.engine.begin() as connection:
        rows.write(connection, {job.name: job for job in jobs})


@contextmanager
def ticking(app: App, jobs: Sequence[JobSpec] = ()) -> Generator[Scheduler]:
    scheduler = Scheduler(app, {job.name: job for job in jobs})
    scheduler.start()
    stop = threading.Event()
    run_log = RunLogHandler()
    logging.getLogger().addHandler(run_log)

    def tick() -> None:
        while not stop.wait(TICK_S):
            scheduler.tick()

    thread = threading.Thread(target=tick, name="ticking")
    thread.start()
    try:
        yield scheduler
    finally:
        stop.set()
        thread.join()
        scheduler.stop(grace_s=5)
        logging.getLogger().removeHandler(run_log)
