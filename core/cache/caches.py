"""
All caches of a process: declared once, found by name, counted, dropped in every process.

    caches = Caches(link, pepper=..., trust=watch, changes=changes)
    keys = caches.add(SPEC, load)
    watch.listen(EntriesDropped, caches.apply)
    watch.on_gap(lambda: caches.clear_memory("gap"))
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from core.cache.cache import Cache
from core.cache.counters import Counters
from core.cache.envelope import mac_keys
from core.cache.spec import CacheSpec, Trust
from core.cache.statistics import SEND_EVERY_S, Statistics
from core.connections import RedisAway, RedisLink
from core.errors import CacheNotFound
from core.events.access import EntriesDropped

V = TypeVar("V")

OPERATOR = "operator"


class ChangeLog(Protocol):
    """The writer's side of the change log (core/access/changes.py)."""

    def tell(self, change: EntriesDropped) -> None:
        """Tell every process, at most once; nobody when Redis is away."""
        ...


class Caches:
    """
    Args:
        pepper: the setting KEY_PEPPER; the key of the MAC is derived from it.
        trust: needed by caches that grant rights.
        changes: tells other processes of drops; None: there are none.
    """

    def __init__(
        self, link: RedisLink, *, pepper: str, trust: Trust | None = None, changes: ChangeLog | None = None
    ) -> None:
        self._link = link
        self._keys = mac_keys(pepper)
        self._trust = trust
        self._changes = changes
        self._caches: dict[str, Cache[Any]] = {}
        self.statistics = Statistics(link)
        self._stopping = threading.Event()
        self._sender: threading.Thread | None = None

    @property
    def names(self) -> list[str]:
        return sorted(self._caches)

    @property
    def specs(self) -> list[CacheSpec[Any]]:
        return [self._caches[name].spec for name in self.names]

    def add(self, spec: CacheSpec[V], load: Callable[[str], V | None]) -> Cache[V]:
        """
        Declare a cache.

        Args:
            load: reads the truth; None: it is proved that there is none. What it raises is the caller's.
        """
        if spec.name in self._caches:
            raise ValueError(f"there is a cache {spec.name} already")
        counters = self.statistics.counters(spec.name)
        cache = Cache(spec, load, self._link, counters, trust=self._trust, keys=self._keys)
        self._caches[spec.name] = cache
        return cache

    def counters(self, name: str) -> Counters:
        """For copies of another make that are only counted here."""
        return self.statistics.counters(name)

    def find(self, name: str) -> Cache[Any]:
        """
        Raises:
            CacheNotFound: the message says which there are.
        """
        if name not in self._caches:
            known = ", ".join(self.names) or "none"
            raise CacheNotFound(f"no cache {name[:60]!r} whose entries can be dropped; there are: {known}")
        return self._caches[name]

    def drop_everywhere(self, name: str, ids: Sequence[str]) -> bool:
        """
        Drop entries from Redis and from the memory of every process.

        Redis first: who drops from memory and asks again must not find the old entry there. False: Redis is away, and
        only this process dropped them.

        Raises:
            CacheNotFound: no such cache.
        """
        cache = self.find(name)
        try:
            cache.drop_in_redis(ids)
        except RedisAway:
            cache.drop(ids, reason=OPERATOR)
            return False
        cache.drop(ids, reason=OPERATOR)
        if self._changes is not None:
            self._changes.tell(EntriesDropped(name, tuple(ids)))
        return True

    def apply(self, change: EntriesDropped) -> None:
        """Another process dropped entries; of a cache that this one does not have, maybe."""
        cache = self._caches.get(change.cache)
        if cache is not None:
            cache.drop(change.ids, reason=OPERATOR)

    def clear_memory(self, reason: str) -> None:
        """Forget everything in this process, e.g. because changes may have passed unheard."""
        for cache in list(self._caches.values()):
            cache.drop(None, reason=reason)

    def start(self) -> None:
        """Send figures every five seconds, on a thread of its own."""
        self._sender = threading.Thread(target=self._send, name="cache statistics", daemon=True)
        self._sender.start()

    def close(self) -> None:
        """Send the last figures; a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._sender is not None:
            self._sender.join(2.0)
        self.statistics.close()

    def _send(self) -> None:
        while not self._stopping.wait(SEND_EVERY_S):
            self.statistics.flush()
