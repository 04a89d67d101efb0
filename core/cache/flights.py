"""
Single flight: of callers in one process who want the same entry at the same time, one goes and all get what it brings.

A drop ends a flight for who comes later: they start another one, and what the old one brings is not stored.
"""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Generic, TypeVar

from core.errors import StoreUnavailable

V = TypeVar("V")

WAIT_S = 15.0  # longer than any statement may take


class Flight(Generic[V]):
    """
    Attributes:
        floor: the least version that may be stored of what it brings.
        is_void: nothing of it may be stored.
        was_dropped: "there is none" may not be stored.
        is_asked: somebody waits for it; False: it only makes a stale entry fresh.
    """

    __slots__ = ("_landing", "floor", "is_asked", "is_void", "was_dropped")

    def __init__(self, *, is_asked: bool) -> None:
        self.is_asked = is_asked
        self._landing: Future[V | None] = Future()
        self.floor = 0
        self.is_void = False
        self.was_dropped = False

    def drop(self, newer_than: int | None) -> None:
        self.was_dropped = True
        if newer_than is None:
            self.is_void = True
        else:
            self.floor = max(self.floor, newer_than)

    def land(self, value: V | None) -> None:
        self._landing.set_result(value)

    def fail(self, error: BaseException) -> None:
        self._landing.set_exception(error)

    def wait(self) -> V | None:
        """
        What it brings; its failure is the caller's.

        Raises:
            StoreUnavailable: it is not back in time.
        """
        try:
            return self._landing.result(WAIT_S)
        except NotInTime:
            if self._landing.done():  # its own failure was a timeout
                raise
            raise StoreUnavailable("an entry was not loaded in time; try again") from None
