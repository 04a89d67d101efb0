"""
The crew of a solo process: tasks that took their process down twice, one at a time, alone in it.

What such a task breaks is then its own process, and nobody else's work (design section 3). Ends when none is ready.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from core.errors import Unavailable
from core.tasks.queues import Queue
from core.tasks.writer import TaskWriter
from workers.drain import CLAIM_TIMEOUT_S
from workers.execution import Execution

logger = logging.getLogger(__name__)


class SoloCrew:
    """One thread; `writer` claims only such tasks."""

    def __init__(
        self,
        *,
        writer: TaskWriter,
        execution: Execution,
        may_claim: Callable[[], bool],
        on_begin: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._execution = execution
        self._may_claim = may_claim
        self._on_begin = on_begin
        self._queues: Sequence[Queue] = ()
        self._stopping = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, name="solo", daemon=True)

    def start(self, queues: Sequence[Queue]) -> None:
        self._queues = queues
        self._thread.start()

    def serve(self, queues: Sequence[Queue]) -> None:
        self._queues = queues

    def is_alive(self) -> bool:
        return self._done or self._stopping.is_set() or self._thread.is_alive()

    def is_busy(self) -> bool:
        return self._thread.is_alive()

    def is_done(self) -> bool:
        return self._done

    def tick(self) -> None:
        """Nothing is claimed ahead here."""

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._run_one_each():
                    self._done = True
                    return
            except Unavailable as error:
                logger.info("solo waits: %s", error)
                self._stopping.wait(1.0)

    def _run_one_each(self) -> bool:
        """One task of each queue; False when there was none."""
        found = False
        for queue in self._queues:
            if self._stopping.is_set() or not self._may_claim():
                raise Unavailable("not claiming now")
            for claimed in self._writer.claim(queue.name, limit=1, timeout_s=CLAIM_TIMEOUT_S):
                found = True
                self._on_begin()
                self._execution.run(claimed, time.monotonic())
        return found
