"""
The limits of virtual keys, looked up without I/O.

A limit counts from the moment it is heard of: a change patches memory at once (KeysChanged), the job
`refresh_rate_limits` tells every 30 s what changed (LimitsRefreshed), and a process that heard neither for 45 s reads
the limits of all keys it remembers by itself. Whatever fails, the last good limits go on, and `age_s` says how long.
A key is never without limits because they were not found: its snapshot brings them along.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.access.keys.model import VirtualKey
from core.connections import database_errors
from core.errors import StoreUnavailable
from core.events.access import ChangedKey, KeysChanged, Limits, LimitsRefreshed

logger = logging.getLogger(__name__)

FRESH_S = 60.0
"""Limits that were confirmed so lately are fresh; older ones are still the last good ones."""

SILENT_S = 45.0  # half a refresh late: the scheduler is away, or its message was lost
AGAIN_S = 5.0  # after a reading that failed
RENEW_S = 240.0  # copies in Redis of keys in use are written again before their five minutes are over
RENEWED_AT_ONCE = 100  # of a tick, so that thousands of keys do not hold it up
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class CountedLimits:
    """Limits, and the version of the row they are of; of two the higher counts."""

    limits: Limits
    version: int


@dataclass(slots=True)
class _Entry:
    """
    Args:
        entry_id: under which the copy in Redis lies; None: not known, the key came from elsewhere.
        is_used: since the copy was written last.
        written_at: that moment, on the monotonic clock.
    """

    counted: CountedLimits
    entry_id: str | None = None
    is_used: bool = False
    written_at: float = 0.0


class KeyLimits:
    """
    Thread-safe; `get` does no I/O.

    Args:
        read: the keys of these ids as they are now, from the database.
        copy: reads a copy by its id, or writes this one where there is none; see core/access/keys/limit_copies.py.
        write: replaces a copy by a newer one, or lengthens its life.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Sequence[VirtualKey]],
        *,
        copy: Callable[[str, CountedLimits], CountedLimits],
        write: Callable[[str, CountedLimits], None],
        remembered: int = REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._copy = copy
        self._write = write
        self._remembered = remembered
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._confirmed_at = clock()
        self._try_again_at = 0.0

    def get(self, key: VirtualKey) -> Limits:
        """
        The newest limits known of the key: those remembered, or those of the snapshot, by version.

        No I/O. A key that is not remembered is from now on.
        """
        entry = self._entries.get(key.key_id)
        if entry is None or entry.counted.version < key.version:
            entry = self._patch(key.key_id, CountedLimits(key.limits, key.version), is_new=True)
        else:
            with self._lock:  # the least lately used goes first; it may have gone meanwhile
                if key.key_id in self._entries:
                    self._entries.move_to_end(key.key_id)
        entry.is_used = True
        return entry.counted.limits

    @property
    def age_s(self) -> float:
        """How long ago it was confirmed that nothing else is known; over FRESH_S something is wrong."""
        return self._clock() - self._confirmed_at

    @property
    def is_fresh(self) -> bool:
        return self.age_s <= FRESH_S

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, entry_id: str, key: VirtualKey) -> None:
        """
        A key was just found beyond memory: here a round trip to Redis more is allowed.

        Its copy there may be newer than the snapshot, and is written when there is none.
        """
        own = CountedLimits(key.limits, key.version)
        found = self._copy(entry_id, own)
        newest = found if found.version > own.version else own
        if newest.version > found.version:
            self._write(entry_id, newest)
        entry = self._patch(key.key_id, newest, is_new=True)
        entry.entry_id = entry_id
        entry.written_at = self._clock()

    def apply(self, change: KeysChanged | LimitsRefreshed) -> None:
        """Patch what is remembered. A refresh, even an empty one, confirms all the rest."""
        self._apply(change.keys)
        if isinstance(change, LimitsRefreshed):
            self._confirmed_at = self._clock()

    def distrust(self) -> None:
        """Messages may have been lost: the next tick reads anew."""
        self._confirmed_at = min(self._confirmed_at, self._clock() - SILENT_S)
        self._try_again_at = 0.0

    def tick(self) -> None:
        """
        To be called every few seconds, by a thread that may wait for the stores; a failure is told and kept from it.
        """
        if self.age_s >= SILENT_S and self._clock() >= self._try_again_at:
            try:
                self.refresh()
            except StoreUnavailable as error:
                self._try_again_at = self._clock() + AGAIN_S
                logger.warning("limits were not refreshed: %s", error, extra={"age_s": round(self.age_s)})
        self.renew()

    def refresh(self) -> int:
        """
        Read the limits of all remembered keys in one query; how many there are.

        Raises:
            StoreUnavailable: the last good ones go on.
        """
        with self._reading:
            began = self._clock()
            with self._lock:
                key_ids = list(self._entries)
            if key_ids:
                with database_errors("the limits of keys were not read"):
                    keys = self._read(key_ids)
                for key in keys:
                    self._patch(key.key_id, CountedLimits(key.limits, key.version), is_new=False)
                self._forget(set(key_ids) - {key.key_id for key in keys})
            self._confirmed_at = max(self._confirmed_at, began)
            return len(key_ids)

    def renew(self) -> int:
        """Write the copies in Redis again that are in use and near their end; how many were."""
        now = self._clock()
        with self._lock:
            due = [e for e in self._entries.values() if e.is_used and e.entry_id and now - e.written_at >= RENEW_S]
        for entry in due[:RENEWED_AT_ONCE]:
            if entry.entry_id is not None:
                entry.is_used, entry.written_at = False, now
                self._write(entry.entry_id, entry.counted)
        return min(len(due), RENEWED_AT_ONCE)

    def _apply(self, keys: Sequence[ChangedKey]) -> None:
        for key in keys:
            entry = self._patch(key.key_id, CountedLimits(key.limits, key.version), is_new=False)
            if entry.entry_id in key.hashes:
                # Its copy was dropped with the change: the next tick writes the new one.
                entry.written_at = float("-inf")

    def _patch(self, key_id: str, counted: CountedLimits, *, is_new: bool) -> _Entry:
        """The newer one stays. `is_new`: remember a key that is not remembered yet."""
        with self._lock:
            entry = self._entries.get(key_id)
            if entry is None:
                entry = _Entry(counted)
                if is_new:
                    self._entries[key_id] = entry
            elif entry.counted.version < counted.version:
                entry.counted = counted
            if is_new:
                self._entries.move_to_end(key_id)
                while len(self._entries) > self._remembered:
                    self._entries.popitem(last=False)
            return entry

    def _forget(self, key_ids: set[str]) -> None:
        """Keys that were deleted."""
        with self._lock:
            for key_id in key_ids:
                self._entries.pop(key_id, None)
