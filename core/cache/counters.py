"""
What a process counts about one cache, cheap enough for the hottest read.

A count is one call into C that no other thread can divide, and no lock: `next` of an `itertools.count`. It can only be
read by counting, so a reading knows how many readings were before it.
"""

from __future__ import annotations

import itertools
from collections import Counter as Tally
from threading import Lock

ASKS = ("memory", "redis", "negative", "stale", "misses", "coalesced")
"""Each question to a cache is one of these: answered from where, loaded, or shared with somebody else's load."""
HITS = ("memory", "redis", "negative", "stale")
PLAIN = (*ASKS, "loads", "failed_loads", "corrupt", "old_epoch", "refused_writes")
BY_REASON = "invalidations:"


class Counter:
    """`add` counts one. `take` by one thread at a time."""

    __slots__ = ("_taken", "_takes", "add")

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._taken = 0
        self._takes = 0

    def take(self) -> int:
        """How many since the last take."""
        counted = self.add() - self._takes
        self._takes += 1
        since = counted - self._taken
        self._taken = counted
        return since


class Counters:
    """
    Of one cache in this process, since they were last taken.

    `memory`, `redis`, `negative`, `stale`: answers by where from; `misses`: no tier knew; `coalesced`: who waited for
    another's answer; `loads`, `failed_loads`: of the truth; `corrupt`: entries that were unreadable or forged,
    `old_epoch`: from before a restart of Redis; `refused_writes`: something newer, or a tombstone, was there.
    """

    __slots__ = (
        "_load_max_us",
        "_load_us",
        "_lock",
        "_reasons",
        "coalesced",
        "corrupt",
        "failed_loads",
        "loads",
        "memory",
        "misses",
        "name",
        "negative",
        "old_epoch",
        "redis",
        "refused_writes",
        "stale",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory = Counter()
        self.redis = Counter()
        self.negative = Counter()
        self.stale = Counter()
        self.misses = Counter()
        self.coalesced = Counter()
        self.loads = Counter()
        self.failed_loads = Counter()
        self.corrupt = Counter()
        self.old_epoch = Counter()
        self.refused_writes = Counter()
        self._lock = Lock()
        self._reasons: Tally[str] = Tally()
        self._load_us = 0
        self._load_max_us = 0

    def loaded(self, took_s: float) -> None:
        """A load ended well after `took_s` seconds."""
        took_us = int(took_s * 1_000_000)
        self.loads.add()
        with self._lock:
            self._load_us += took_us
            self._load_max_us = max(self._load_max_us, took_us)

    def invalidated(self, reason: str, entries: int = 1) -> None:
        with self._lock:
            self._reasons[reason] += entries

    def take(self) -> dict[str, int]:
        """
        What was counted since the last take, without zeros; by one thread at a time.

        `{"memory": 7, "loads": 1, "load_us": 950, "load_max_us": 950, "invalidations:key": 1}`
        """
        taken = {name: getattr(self, name).take() for name in PLAIN}
        with self._lock:
            taken["load_us"], self._load_us = self._load_us, 0
            taken["load_max_us"], self._load_max_us = self._load_max_us, 0
            taken |= {BY_REASON + reason: count for reason, count in self._reasons.items()}
            self._reasons.clear()
        return {name: count for name, count in taken.items() if count}
