"""
The bans in force, in this process's memory: what the door looks at on each request.

About 120 bytes a ban, at most 100,000. When there are more, those that end first are forgotten: the least protection is
lost, operators' bans and those of repeat offenders stay, and a forgotten one is found again at its next failure.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable
from operator import itemgetter

MOST = 100_000
_END_BITS = 42  # milliseconds of Unix time, until the year 2109
_END_MASK = (1 << _END_BITS) - 1
_KEPT_MS = 60_000  # what is over is kept so long: it is proof against an older message


class DatabaseClock:
    """
    The database's clock by this process's monotonic one, so that the host's own clock decides nothing.

    Until the first reading it is the host's: then a ban ends early or late by the skew between the two.
    """

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def now_ms(self) -> int:
        """Unix time, milliseconds."""
        return int((time.monotonic() + self._ahead_s) * 1000)

    def read(self, unix_s: float, *, asked_at: float) -> None:
        """The database said `unix_s` when asked at `asked_at` (monotonic); half of the time is taken for the answer."""
        self._ahead_s = unix_s - (asked_at + time.monotonic()) / 2


class BanMemory:
    """
    Ends by the number of a network (core/access/addresses/addresses.py), in milliseconds of the database's Unix time.

    Readers take no lock. One integer an entry: the row's version above, the end below.
    """

    def __init__(self, clock: DatabaseClock, *, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._held: dict[int, int] = {}
        self._since: dict[int, int] | None = None
        self._sweep_at = 1000
        self._lock = threading.Lock()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._held)

    def end_of(self, number: int) -> int:
        """Milliseconds; 0: not banned, as far as is known."""
        found = self._held.get(number)
        return 0 if found is None else found & _END_MASK

    def put(self, number: int, *, end_ms: int, version: int) -> None:
        """What a row says; an older version than the known one changes nothing."""
        with self._lock:
            held = self._held.get(number)
            if held is None or version > held >> _END_BITS:
                self._store(number, _entry(version, end_ms))

    def put_now(self, number: int, *, end_ms: int) -> None:
        """A ban that has no row yet: whatever its row says later counts."""
        with self._lock:
            held = self._held.get(number, 0)
            self._store(number, _entry(held >> _END_BITS, max(end_ms, held & _END_MASK)))

    def begin(self) -> None:
        """All rows are about to be read: what is put from now on counts beside them."""
        with self._lock:
            self._since = {}

    def replace(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """
        Args:
            rows: (number, version, end in milliseconds), read after `begin`.
        """
        held = {number: _entry(version, end_ms) for number, version, end_ms in rows}
        with self._lock:
            for number, entry in (self._since or {}).items():
                if entry >> _END_BITS >= held.get(number, 0) >> _END_BITS:
                    held[number] = entry
            self._held, self._since = held, None
            self._bound()

    def _store(self, number: int, entry: int) -> None:
        self._held[number] = entry
        if self._since is not None:
            self._since[number] = entry
        if len(self._held) >= min(self._sweep_at, self._most + 1):
            self._bound()

    def _bound(self) -> None:
        long_over = self._clock.now_ms() - _KEPT_MS
        over = [number for number, entry in self._held.items() if entry & _END_MASK < long_over]
        for number in over:
            del self._held[number]
        excess = len(self._held) - self._most
        if excess > 0:
            # A hundredth more than must be: looking through all of them is paid for by a thousand new ones.
            ends = ((entry & _END_MASK, number) for number, entry in self._held.items())
            for _, number in heapq.nsmallest(excess + self._most // 100, ends, key=itemgetter(0)):
                del self._held[number]
                self.forgotten += 1
        self._sweep_at = max(1000, 2 * len(self._held))


def _entry(version: int, end_ms: int) -> int:
    return version << _END_BITS | max(0, min(end_ms, _END_MASK))
