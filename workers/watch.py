"""
The thread that looks after the others: deadlines of sync handlers, look-ahead behind slow tasks, bells held back.

It sleeps while nothing runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from core.errors import Unavailable
from workers import outcomes
from workers.crew import Crew
from workers.execution import STUCK_S, Execution
from workers.run import Interruption, Run

logger = logging.getLogger(__name__)

TICK_S = 0.025  # half of what look-ahead may last
IDLE_S = 1.0


class Watch:
    """
    Args:
        on_stuck: a handler could not be interrupted; its task was ended, its thread is lost.
    """

    def __init__(
        self,
        execution: Execution,
        *,
        on_stuck: Callable[[], None],
    ) -> None:
        self._execution = execution
        self._on_stuck = on_stuck
        self._closed = False
        self._idle = False
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, crew: Crew) -> None:
        self._thread = threading.Thread(target=self._run, args=(crew,), name="watch", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def notice(self) -> None:
        """Something begins to run. Cheap: a thread that watches already is not woken."""
        if self._idle:
            self._begun.set()

    def close(self) -> None:
        self._closed = True
        self._begun.set()

    def _run(self, crew: Crew) -> None:
        while not self._closed:
            self._idle = True
            if not crew.is_busy():
                self._begun.wait(IDLE_S)
            self._idle = False
            self._begun.clear()
            try:
                crew.tick()
                self._look_at_runs()
            except Unavailable:  # the writer is closed: this process ends, the sweeper returns what is left
                return
            time.sleep(TICK_S)

    def _look_at_runs(self) -> None:
        now = time.monotonic()
        for run in self._execution.running():
            if now >= run.ends_at:
                self._end(run, late_s=now - run.ends_at)

    def _end(self, run: Run, *, late_s: float) -> None:
        run.interrupt(Interruption.DEADLINE)
        if late_s > STUCK_S and self._execution.abandon(run, outcomes.timed_out(run)):
            logger.error(
                "handler does not end; this process is replaced",
                extra={"task_id": run.task_id, "late_s": round(late_s, 1)},
            )
            self._on_stuck()
