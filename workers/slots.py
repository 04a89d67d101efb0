"""
The threads of one worker process, shared out among the queues it serves.

A drain holds one slot from the bell that started it to its end. Each queue has slots that nobody else may take
(`reserved_slots`) and a most it may hold (`max_slots`).
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterable

from core.tasks.queues import Queue


class Slots:
    """Thread-safe. A queue that was not named yet gets no slot."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._queues: dict[str, Queue] = {}
        self._used: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._granted: Counter[str] = Counter()
        self._turns = itertools.count(1)
        self._last_turn: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()

    def serve(self, queues: Iterable[Queue]) -> None:
        """Name the queues and their limits; replaces what was said before."""
        with self._changed:
            self._queues = {queue.name: queue for queue in queues}
            self._changed.notify_all()

    def acquire(self, queue: str, *, timeout_s: float) -> bool:
        """Take a slot; False when none came free in time, or they are closed."""
        with self._changed:
            self._waiting[queue] += 1
            try:
                self._changed.wait_for(lambda: self._closed or self._granted[queue] or self._may(queue), timeout_s)
            finally:
                self._waiting[queue] -= 1
            if self._granted[queue]:  # counted as used when it was handed over
                self._granted[queue] -= 1
                return True
            if self._closed or not self._may(queue):
                return False
            self._take(queue)
            return True

    def release(self, queue: str) -> None:
        with self._changed:
            self._used[queue] -= 1
            self._changed.notify_all()

    def hand_over(self, queue: str) -> bool:
        """Give the slot that `queue` holds to the queue that waits longest since its last; False when none does."""
        with self._changed:
            self._used[queue] -= 1
            waiting = (other for other, number in self._waiting.items() if number > self._granted[other])
            others = [other for other in waiting if other != queue and self._may(other)]
            if not others:
                self._used[queue] += 1
                return False
            heir = min(others, key=self._last_turn.__getitem__)
            self._take(heir)
            self._granted[heir] += 1
            self._changed.notify_all()
            return True

    def has_room(self, queue: str) -> bool:
        """Whether `queue` would get a slot now; may be outdated when it is read."""
        return not self._closed and self._may(queue)

    def close(self) -> None:
        """Give out no more slots."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _take(self, queue: str) -> None:
        self._used[queue] += 1
        self._last_turn[queue] = next(self._turns)

    def _may(self, name: str) -> bool:
        queue = self._queues.get(name)
        if queue is None:
            return False
        used = self._used[name]
        if queue.max_slots is not None and used >= queue.max_slots:
            return False
        free = self._threads - self._used.total()
        if free <= 0 or used < queue.reserved_slots:
            return free > 0
        kept = sum(max(0, q.reserved_slots - self._used[q.name]) for q in self._queues.values() if q is not queue)
        return free > kept
