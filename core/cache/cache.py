"""
One declared cache: memory, then Redis, then the loader.

A value that was loaded before a drop answers who asked before it, and nobody after: not from memory (the flight is
marked, under the lock that drops), not from Redis (the tombstone's version, or the drop it names, keeps it out). Redis
away is a miss. A loader runs once for all who ask at the same time, its failure is theirs, and it is not run again for
the same question.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from core.cache.counters import Counters
from core.cache.flights import Flight
from core.cache.memory import MemoryTier
from core.cache.redis_tier import Reading, RedisTier
from core.cache.spec import CacheSpec, Trust, no_limit
from core.connections import RedisAway, RedisLink
from core.errors import Unavailable

logger = logging.getLogger(__name__)

V = TypeVar("V")

LOCK_WAIT_S = 0.3  # another process loads it; after this it is loaded here too
_LOCK_PAUSES_S = (0.005, 0.05)  # between two looks: first, longest
_REVALIDATIONS = 4  # threads of one cache at a time
_REVALIDATION_PAUSE_S = 1.0  # after one that failed


class Cache(Generic[V]):
    """
    Thread-safe. `peek` and `known_missing` do no I/O and take no lock.

    Args:
        load: the truth: None is proof that there is none; what could not be found out is an exception.
        keys: of the MAC; see `mac_keys`.
    """

    def __init__(
        self,
        spec: CacheSpec[V],
        load: Callable[[str], V | None],
        link: RedisLink,
        counters: Counters,
        *,
        trust: Trust | None = None,
        keys: Sequence[bytes] = (),
    ) -> None:
        if spec.grants_rights and (trust is None or not keys):
            raise ValueError(f"cache {spec.name} grants rights: it needs a Trust and keys of the MAC")
        self.spec = spec
        self.counters = counters
        self._load = load
        self._trust = trust if spec.grants_rights else None
        self._memory: MemoryTier[V] = MemoryTier(
            limit=spec.memory_entries,
            life_s=spec.memory_s,
            version=spec.version,
            rest_s=spec.life_s,
            stale_s=spec.stale_s,
        )
        self._missing: MemoryTier[bool] = MemoryTier(
            limit=max(1, spec.negative_entries), life_s=max(spec.negative_s, 1e-9), version=_no_version, rest_s=no_limit
        )
        self._redis = RedisTier(spec, link, counters, keys if spec.grants_rights else ())
        # Bound once: `peek` is the hottest read there is.
        self._remembered = self._memory.get
        self._count_hit = counters.memory.add
        self._may_grant = None if self._trust is None else self._trust.is_current
        self._flights: dict[str, Flight[V]] = {}
        self._lock = threading.Lock()
        self._revalidating = threading.BoundedSemaphore(_REVALIDATIONS)
        self._revalidate_at = 0.0

    def __len__(self) -> int:
        """Entries in memory."""
        return len(self._memory)

    @property
    def absent(self) -> int:
        """Ids in memory of which it is known that there is nothing."""
        return len(self._missing)

    @property
    def loading(self) -> int:
        """Entries that somebody is fetching from Redis or the loader."""
        return len(self._flights)

    def peek(self, id: str) -> V | None:
        """The value from memory; None: it is not there, or does not count now."""
        value = self._remembered(id)
        if value is None or not (self._may_grant is None or self._may_grant()):
            return None
        self._count_hit()
        return value

    def known_missing(self, id: str) -> bool:
        """Whether it was lately proved that there is none."""
        if self._missing.get(id) is None or not self._is_current():
            return False
        self.counters.negative.add()
        return True

    def get(self, id: str) -> V | None:
        """
        The value; None: it is proved that there is none.

        Raises:
            whatever the loader raises; StoreUnavailable: somebody else's load did not end in time.
        """
        value = self.peek(id)
        if value is not None or self.known_missing(id):
            return value
        if self.spec.stale_s:
            value = self._memory.stale(id)
            if value is not None:
                self.counters.stale.add()
                self._revalidate(id)
                return value
        flight, leads = self._board(id)
        if leads:
            return self._lead(id, flight)
        self.counters.coalesced.add()
        return flight.wait()

    def put(self, id: str, value: V) -> None:
        """Store in both tiers, unless something newer is there, or was announced."""
        with self._lock:
            self._missing.drop([id])
            flight = self._flights.get(id)
            if flight is not None:
                flight.is_void = True
        try:
            epoch = self._epoch()
            if self._uses_redis(epoch) and not self._redis.put(id, value, epoch=epoch):
                self.counters.refused_writes.add()
                return
        except RedisAway:
            pass  # memory still knows what was announced
        with self._lock:
            self._memory.put(id, value)

    def drop(self, ids: Sequence[str] | None, *, reason: str, newer_than: int | None = None) -> None:
        """
        Forget in memory; a load under way does not count for who comes after this.

        Args:
            ids: None: all.
            reason: for the statistics, e.g. `key`, `operator`, `gap`.
            newer_than: what is of this version or later stays; the version of the row after its change.
        """
        with self._lock:
            if ids is None:
                dropped = self._memory.clear()
                self._missing.clear()
                for flight in self._flights.values():
                    flight.is_void = True
                self._flights.clear()
            else:
                for id in ids:
                    # Told again: whoever set out since the first time brings nothing older.
                    is_news = newer_than is None or newer_than > self._memory.floor(id)
                    if is_news and id in self._flights:
                        # Void for good: out of this table it would not hear of the next drop.
                        self._flights.pop(id).is_void = True
                dropped = self._memory.drop(ids, newer_than=newer_than)
                self._missing.drop(ids)
        if dropped:
            self.counters.invalidated(reason, dropped)

    def drop_in_redis(self, ids: Sequence[str], *, newer_than: int | None = None) -> None:
        """
        Leave tombstones for all processes.

        Raises:
            RedisAway: there are none.
        """
        self._redis.drop(ids, newer_than=newer_than)

    def redis_keys(self, ids: Sequence[str]) -> list[str]:
        return [self.spec.key(id) for id in ids]

    def _is_current(self) -> bool:
        return self._may_grant is None or self._may_grant()

    def _epoch(self) -> str | None:
        return None if self._trust is None else self._trust.epoch()

    def _uses_redis(self, epoch: str | None) -> bool:
        return self._trust is None or epoch is not None

    def _board(self, id: str, *, is_asked: bool = True) -> tuple[Flight[V], bool]:
        """The flight for this entry, and whether the caller leads it."""
        with self._lock:
            flight = self._flights.get(id)
            if flight is not None:
                return flight, False
            flight = self._flights[id] = Flight(is_asked=is_asked)
            return flight, True

    def _lead(self, id: str, flight: Flight[V]) -> V | None:
        try:
            value = self._find(id, flight)
        except BaseException as error:  # whatever it is, who waits must hear of it
            self._leave(id, flight)
            flight.fail(error)
            raise
        self._leave(id, flight)
        flight.land(value)
        return value

    def _leave(self, id: str, flight: Flight[V]) -> None:
        with self._lock:
            if self._flights.get(id) is flight:
                del self._flights[id]

    def _find(self, id: str, flight: Flight[V]) -> V | None:
        # Another flight may have landed between the look into memory and this one's start.
        value = self.peek(id)
        if value is not None or self.known_missing(id):
            return value
        is_current = self._is_current()
        epoch = self._epoch()
        found: Reading[V] | None = None
        token = ""
        if self._uses_redis(epoch):
            try:
                found, token = self._look(id, flight, epoch)
            except RedisAway:
                found = None
        if found is not None and found.value is not None:
            if flight.is_asked:
                self.counters.redis.add()
            self._keep(id, found.value, flight, is_current=is_current)
            return found.value
        if flight.is_asked:
            self.counters.misses.add()
        try:
            value = self._timed_load(id)
        except BaseException:
            self._release(id, token)
            raise
        if value is None:
            self._keep_missing(id, flight, is_current=is_current)
            self._release(id, token)
        elif found is None or self._store(id, value, flight, drop=found.drop, token=token, epoch=epoch):
            self._keep(id, value, flight, is_current=is_current)
        return value

    def _look(self, id: str, flight: Flight[V], epoch: str | None) -> tuple[Reading[V], str]:
        """What Redis has, and the token of the lock when the load is ours alone."""
        reading = self._redis.read(id, epoch=epoch)
        if self._counts(id, reading, flight):
            return reading, ""
        token = secrets.token_hex(8)
        until = time.monotonic() + LOCK_WAIT_S
        pause_s = _LOCK_PAUSES_S[0]
        while True:
            reading, is_ours = self._redis.claim(id, token, epoch=epoch)
            if self._counts(id, reading, flight):
                return reading, ""
            if is_ours or reading.value is not None or time.monotonic() > until:
                return Reading(None, reading.drop), token if is_ours else ""
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LOCK_PAUSES_S[1])

    def _counts(self, id: str, reading: Reading[V], flight: Flight[V]) -> bool:
        """An entry answers, unless a drop was heard since, or of a later version."""
        if reading.value is None or flight.is_void:
            return False
        return self.spec.version(reading.value) >= self._memory.floor(id)

    def _timed_load(self, id: str) -> V | None:
        began = time.monotonic()
        try:
            value = self._load(id)
        except BaseException:
            self.counters.failed_loads.add()
            raise
        self.counters.loaded(time.monotonic() - began)
        return value

    def _store(self, id: str, value: V, flight: Flight[V], *, drop: str, token: str, epoch: str | None) -> bool:
        """Into Redis, giving the lock back; False: it is old there, so it must not go into memory either."""
        if flight.is_void or self._epoch() != epoch:
            self.counters.refused_writes.add()
            self._release(id, token)
            return False
        try:
            stored = self._redis.put(id, value, epoch=epoch, drop=drop, token=token)
        except RedisAway:
            return True  # memory still knows what was announced; the lock ends by itself
        if not stored:
            self.counters.refused_writes.add()
        return stored

    def _keep(self, id: str, value: V, flight: Flight[V], *, is_current: bool) -> None:
        with self._lock:
            if is_current and not flight.is_void:
                self._memory.put(id, value)

    def _keep_missing(self, id: str, flight: Flight[V], *, is_current: bool) -> None:
        with self._lock:
            if flight.is_void:
                return
            self._memory.drop([id])
            if self.spec.negative_s and is_current:
                self._missing.put(id, True)

    def _release(self, id: str, token: str) -> None:
        if token:
            try:
                self._redis.release(id, token)
            except RedisAway:
                return  # it ends by itself

    def _revalidate(self, id: str) -> None:
        """Load a stale entry again, on a thread of its own, once."""
        if time.monotonic() < self._revalidate_at or not self._revalidating.acquire(blocking=False):
            return
        flight, leads = self._board(id, is_asked=False)
        if not leads:
            self._revalidating.release()
            return
        threading.Thread(target=self._run, args=(id, flight), name=f"cache {self.spec.name}", daemon=True).start()

    def _run(self, id: str, flight: Flight[V]) -> None:
        failed = True
        try:
            self._lead(id, flight)
            failed = False
        except Unavailable as error:
            logger.warning("a stale entry was not loaded again", extra={"cache": self.spec.name, "reason": str(error)})
        finally:
            if failed:
                self._revalidate_at = time.monotonic() + _REVALIDATION_PAUSE_S
            self._revalidating.release()


def _no_version(_: object) -> int:
    return 0
