"""
Group commit: what many threads want written at about the same time is one statement and one fsync.

One thread per group takes what has gathered, up to a bound, and commits it; while it waits for the disk the next group
gathers. Nothing is delayed on purpose: alone, an item is committed at once. Every wait has a deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from core.errors import StoreUnavailable, Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """
    Args:
        commit: writes a batch; returns a result or an exception per item, in order. An exception it raises is
            everybody's.
        weigh: how much of `max_batch` an item takes.
        max_batch: bound of the weights in one commit (a single heavier item goes alone).
        max_waiting: bound of the items that wait; beyond it `submit` refuses.
    """

    def __init__(
        self,
        commit: Callable[[list[T]], Sequence[R | Exception]],
        *,
        name: str,
        weigh: Callable[[T], int] = lambda _: 1,
        max_batch: int = 1000,
        max_waiting: int = 4096,
    ) -> None:
        self._commit = commit
        self._name = name
        self._weigh = weigh
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def submit(self, item: T) -> Future[R]:
        """
        Raises:
            Unavailable: too many wait already, or the group is closed; nothing was written.
        """
        future: Future[R] = Future()
        with self._ready:
            if self._closing:
                raise Unavailable("this process is stopping; send it again")
            if len(self._waiting) >= self._max_waiting:
                raise Unavailable("too many writes wait for the database; send it again", retry_after_s=1)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._waiting.append((item, future))
            if len(self._waiting) == 1:
                self._ready.notify()
        return future

    def write(self, item: T, *, timeout_s: float) -> R:
        """
        Submit and wait.

        Raises:
            StoreUnavailable: no answer in time. The item may or may not have been written.
        """
        future = self.submit(item)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                raise StoreUnavailable("the database did not answer in time; nothing was written") from None
            raise StoreUnavailable("the database did not answer in time; it is not known what was written") from None

    def is_alive(self) -> bool:
        """False when the thread died; it starts with the first item."""
        return self._thread is None or self._thread.is_alive()

    def close(self, timeout_s: float) -> None:
        """Write what waits, then end; what is not written by then fails as unavailable."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        for _, future in self._waiting:
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._waiting and not self._closing:
                    self._ready.wait()
                if not self._waiting:
                    return
                batch = self._gather()
            batch = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._write(batch)

    def _gather(self) -> list[tuple[T, Future[R]]]:
        batch: list[tuple[T, Future[R]]] = []
        weight = 0
        while self._waiting:
            weight += self._weigh(self._waiting[0][0])
            if batch and weight > self._max_batch:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _write(self, batch: list[tuple[T, Future[R]]]) -> None:
        began = time.monotonic()
        try:
            results = self._commit([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        logger.debug("group committed", extra={"group": self._name, "size": len(batch), "s": time.monotonic() - began})
