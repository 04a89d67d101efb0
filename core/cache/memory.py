"""
The memory tier: bounded, least lately used out first, each entry with its end.

Reading takes no lock: one look-up and one touch, each a single call into C, which other threads cannot divide (CPython
with the GIL). A touch never inserts, so it cannot bring back what was dropped meanwhile. Writers take the lock.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")

JITTER = 0.1  # of a life, at most: what was stored together does not end together
FLOOR_S = 60.0  # as long as a tombstone in Redis


def jittered(seconds: float) -> float:
    return seconds * (1 - JITTER * random.random())  # noqa: S311 (jitter)


class Entry(NamedTuple, Generic[V]):
    """
    Args:
        fresh_until, stale_until: monotonic seconds.
    """

    value: V
    version: int
    fresh_until: float
    stale_until: float


class MemoryTier(Generic[V]):
    """
    A newer entry is never replaced by an older one, nor is what was dropped up to a version.

    Args:
        limit: most entries.
        life_s: of an entry, seconds, before jitter.
        rest_s: what is left of a value's own life; None: no end.
        stale_s: kept so much longer, for `entry` only.
    """

    def __init__(
        self,
        *,
        limit: int,
        life_s: float,
        version: Callable[[V], int],
        rest_s: Callable[[V], float | None],
        stale_s: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._life_s = life_s
        self._version = version
        self._rest_s = rest_s
        self._stale_s = stale_s
        self._clock = clock
        self._entries: OrderedDict[str, Entry[V]] = OrderedDict()
        self._floors: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, id: str) -> V | None:
        """The value, when it is fresh."""
        entry = self._entries.get(id)
        if entry is None or entry[2] <= self._clock():
            return None
        try:
            self._entries.move_to_end(id)
        except KeyError:
            # Dropped since the look-up: the answer is from before that.
            return entry[0]
        return entry[0]

    def stale(self, id: str) -> V | None:
        """The value, when it is fresh no more, and answers only while somebody loads it again."""
        entry = self._entries.get(id)
        return entry.value if entry is not None and entry.stale_until > self._clock() else None

    def floor(self, id: str) -> int:
        """The least version that may be stored, as far as is remembered."""
        floor = self._floors.get(id)
        return floor[0] if floor is not None and floor[1] > self._clock() else 0

    def put(self, id: str, value: V) -> bool:
        """False: a newer one is there, or was announced, or the value's own life is over."""
        rest_s = self._rest_s(value)
        if rest_s is not None and rest_s <= 0:
            return False
        version = self._version(value)
        life_s = jittered(self._life_s)
        fresh_s = life_s if rest_s is None else min(life_s, rest_s)
        stale_s = fresh_s + self._stale_s if rest_s is None else min(fresh_s + self._stale_s, rest_s)
        with self._lock:
            now = self._clock()
            there = self._entries.get(id)
            if version < self.floor(id) or (there is not None and there.version > version and there.stale_until > now):
                return False
            self._entries[id] = Entry(value, version, now + fresh_s, now + stale_s)
            self._entries.move_to_end(id)
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        return True

    def drop(self, ids: Sequence[str], *, newer_than: int | None = None) -> int:
        """
        How many of these drops were news: the same one told again is not.

        Args:
            newer_than: entries of this version and later ones stay, and older ones are not stored for a minute.
        """
        news = 0
        with self._lock:
            until = self._clock() + FLOOR_S
            for id in ids:
                there = self._entries.get(id)
                if there is not None and (newer_than is None or there.version < newer_than):
                    del self._entries[id]
                if newer_than is None:
                    news += 1
                    continue
                floor = self.floor(id)
                news += newer_than > floor
                self._floors[id] = (max(newer_than, floor), until)
                self._floors.move_to_end(id)
            while len(self._floors) > self._limit:
                self._floors.popitem(last=False)
        return news

    def clear(self) -> int:
        """How many entries went: all. What is known about versions stays."""
        with self._lock:
            dropped = len(self._entries)
            self._entries.clear()
        return dropped
