"""
Core is synchronous: the web process calls it in these threads, a bounded number with a bounded queue.

Nothing hangs (law 10): a caller stops waiting after its deadline. A thread that a blackholed server holds stays held
until the kernel or the server gives up; it is a daemon, so that it cannot keep the process from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from core.errors import Unavailable
from web.deadline import ANSWER_S
from web.landing import Landing

T = TypeVar("T")

SIZE = 6  # with the accepting thread and the door's two inside the pool of ten database connections
WAITING = 256  # at 1 ms a call a queue of a quarter second; more would only wait for its deadline


class _Call(Generic[T]):
    """A call on its way to a thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.future: Future[T] = Future()

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return  # its caller has left
        try:
            self.future.set_result(self.function())
        except Exception as error:  # handed to the caller, who knows what to do with it
            self.future.set_exception(error)


class Threads:
    """Started with the first call; `close` lets idle threads end."""

    def __init__(self, landing: Landing, *, size: int = SIZE, waiting: int = WAITING) -> None:
        self._landing = landing
        self._size = size
        self._waiting = waiting
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def run(self, function: Callable[[], T], *, failure: str, deadline_s: float = ANSWER_S) -> T:
        """
        Call `function` in a thread.

        Args:
            failure: what a timeout means to the caller.

        Raises:
            Unavailable: too many wait already, or there was no answer in time.
        """
        if self._calls.qsize() >= self._waiting:
            raise Unavailable("too many requests wait for the database; try again", retry_after_s=1)
        if len(self._threads) < self._size:
            self._start()
        call = _Call(function)
        self._calls.put(call.run)
        return await self._landing.result(call.future, timeout_s=deadline_s, failure=failure)

    def close(self) -> None:
        for _ in self._threads:
            self._calls.put(None)

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"web-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (run := self._calls.get()) is not None:
            run()
