"""
Futures of threads, awaited on the event loop with a deadline, at one wake-up for all that finish together.

`asyncio.wrap_future` wakes the loop once for each; a group commit finishes a hundred at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from core.errors import StoreUnavailable
from web.deadline import left_s

T = TypeVar("T")


class Landing:
    """Where results of other threads come down. Bound to the loop that is running when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._landed: deque[asyncio.Future[bool]] = deque()
        self._woken = False

    async def result(self, future: Future[T], *, timeout_s: float, failure: str) -> T:
        """
        The future's result, or its exception.

        Args:
            timeout_s: the most; less when the request's own deadline comes first.
            failure: what a timeout means to the caller, e.g. "it is not known whether the task was accepted".

        Raises:
            StoreUnavailable: no result in time; work that had not begun will not begin.
        """
        waiter: asyncio.Future[bool] = self._loop.create_future()
        future.add_done_callback(partial(self._land, waiter))
        timer = self._loop.call_later(min(timeout_s, left_s()), _resolve, waiter, False)
        try:
            in_time = await waiter
        finally:
            timer.cancel()
        if in_time:
            return future.result()
        if future.cancel():
            raise StoreUnavailable("the database did not answer in time; nothing was done")
        raise StoreUnavailable(f"the database did not answer in time; {failure}")

    def _land(self, waiter: asyncio.Future[bool], _: Future[T]) -> None:
        """Called by whichever thread finished the work."""
        self._landed.append(waiter)
        # The loop lowers the flag before it empties the queue, so what is appended while it is up is always seen.
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._woken = False
        while self._landed:
            _resolve(self._landed.popleft(), True)


def _resolve(waiter: asyncio.Future[bool], in_time: bool) -> None:
    if not waiter.done():
        waiter.set_result(in_time)
