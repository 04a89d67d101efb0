"""
The queue of outcomes on their way to the database, written in groups by one thread.

Bounded by number; the bytes of a batch are bounded too. Through an outage a batch is sent until it is answered: what
was committed unknowingly is recognised by its token. What PostgreSQL refuses is found by halving and fails alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import exc

from core.connections import OUTAGES, is_transient
from core.errors import Unavailable
from core.tasks import store
from core.tasks.announcements import Announcer, News
from core.tasks.model import Outcome, TaskError, TaskState
from core.tasks.store import Finish

logger = logging.getLogger(__name__)

MAX_WAITING = 256  # what a crash at the worst moment would run again
MAX_BATCH_BYTES = 8 * 1024 * 1024
UNSTORABLE = TaskError("result_unstorable", "the result could not be stored; the worker's log says why")


class Finishes:
    """One per worker process; `start` before use, `close` at the end."""

    def __init__(self, engine: sa.Engine, announcer: Announcer) -> None:
        self._engine = engine
        self._announcer = announcer
        self._waiting: deque[Finish] = deque()
        self._unwritten = 0  # waiting or in the batch at hand
        self._changed = threading.Condition()
        self._emptied = threading.Condition(threading.Lock())
        self._room = threading.Semaphore(MAX_WAITING)
        self._closing = False
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="finishes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def add(self, finish: Finish) -> None:
        """
        Queue an outcome; waits while 256 others do.

        Raises:
            Unavailable: closed; the sweeper returns the task.
        """
        while not self._room.acquire(timeout=1.0):
            if self._abandoned.is_set():
                raise Unavailable("the worker is stopping; the task is returned")
        with self._changed:
            self._unwritten += 1
            self._waiting.append(finish)
            if len(self._waiting) == 1:
                self._changed.notify()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far and since is durable; False when the time was up."""
        deadline = time.monotonic() + timeout_s
        with self._emptied:
            while self._unwritten:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._emptied.wait(left)
        return True

    def close(self, timeout_s: float) -> bool:
        """Flush, then end the thread. What was not written in time is left to the sweeper: False."""
        flushed = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._abandoned.set()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(2.0)  # a statement in flight ends by its own timeout
        return flushed

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting or self._abandoned.is_set():
                    return
                batch = self._gather()
            self._write(batch)
            self._room.release(len(batch))
            with self._changed:
                self._unwritten -= len(batch)
                empty = not self._unwritten
            if empty:
                with self._emptied:
                    self._emptied.notify_all()

    def _gather(self) -> list[Finish]:
        batch: list[Finish] = []
        size = 0
        while self._waiting:
            size += len(self._waiting[0].outcome.result_json or "")
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _write(self, batch: Sequence[Finish]) -> None:
        """Write the batch, whatever it takes, or abandon it at the end of the process."""
        pause_s = 0.05
        while not self._abandoned.is_set():
            try:
                self._commit(batch)
                return
            except exc.DBAPIError as error:
                if not is_transient(error):
                    self._isolate(batch, error)
                    return
                logger.warning("finishes wait for the database", extra={"waiting": self._unwritten})
            except OUTAGES:
                logger.warning("finishes wait for a connection", extra={"waiting": self._unwritten})
            self._abandoned.wait(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    def _commit(self, batch: Sequence[Finish]) -> None:
        with self._engine.connect() as connection:
            finished = store.finish(connection, batch, settled=self._announcer.settled())
        for refused in batch:
            if refused.claimed.task.id not in finished.tasks:
                logger.warning("finish refused: the task is not ours any more", extra=_who(refused))
        self._announcer.announce(News(list(finished.tasks.values()), finished.event))

    def _isolate(self, batch: Sequence[Finish], error: Exception) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            self._write(batch[:middle])
            self._write(batch[middle:])
            return
        poison = batch[0]
        if poison.outcome.error is UNSTORABLE:
            logger.error("a failure could not be stored; the sweeper returns the task", extra=_who(poison))
            return
        logger.error("result could not be stored", extra=_who(poison) | {"reason": type(error.__cause__).__name__})
        failed = Outcome(state=TaskState.FAILED, error=UNSTORABLE, counts_as="failure")
        self._write([replace(poison, outcome=failed)])


def _who(finish: Finish) -> dict[str, str]:
    return {"task_id": finish.claimed.task.public_id}
