"""
All caches of a process: declared once, found by name, counted, dropped in every process.

    caches = Caches(link, pepper=..., trust=watch, changes=changes)
    keys = caches.add(SPEC, load)
    watch.listen(EntriesDropped, caches.apply)
    watch.on_gap(lambda: caches.clear_memory("gap"))
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from core.cache.cache import Cache
from core.cache.counters import Counters
from core.cache.envelope import mac_keys
from core.cache.spec import CacheSpec, Trust
from core.cache.statistics import SEND_EVERY_S, Statistics
from core.connections import RedisAway, RedisLink
from core.errors import CacheNotFound, InvalidRequest
from core.events.access import EntriesDropped

V = TypeVar("V")

OPERATOR = "operator"
MOST_IDS = 1000  # of one drop by an operator
ID_PATTERN = r"^[A-Za-z0-9._:/@-]{1,200}$"
_ID = re.compile(ID_PATTERN[1:-1])


class ChangeLog(Protocol):
    """The writer's side of the change log (core/access/changes/changes.py)."""

    def tell(self, change: EntriesDropped) -> None:
        """Tell every process, at most once; nobody when Redis is away."""
        ...


@dataclass(frozen=True, slots=True)
class _Other:
    drop_in_redis: Callable[[Sequence[str]], None]
    forget: Callable[[Sequence[str]], None]


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
        self._others: dict[str, _Other] = {}
        self.statistics = Statistics(link)
        self._stopping = threading.Event()
        self._sender: threading.Thread | None = None

    @property
    def names(self) -> list[str]:
        """Of those whose entries can be dropped."""
        return sorted({*self._caches, *self._others})

    @property
    def specs(self) -> list[CacheSpec[Any]]:
        return [self._caches[name].spec for name in sorted(self._caches)]

    def add(self, spec: CacheSpec[V], load: Callable[[str], V | None]) -> Cache[V]:
        """
        Declare a cache.

        Args:
            load: reads the truth; None: it is proved that there is none. What it raises is the caller's.
        """
        if spec.name in self.names:
            raise ValueError(f"there is a cache {spec.name} already")
        counters = self.statistics.counters(spec.name)
        cache = Cache(spec, load, self._link, counters, trust=self._trust, keys=self._keys)
        self._caches[spec.name] = cache
        return cache

    def counters(self, name: str) -> Counters:
        """For copies of another make that are counted here."""
        return self.statistics.counters(name)

    def add_other(
        self, name: str, *, drop_in_redis: Callable[[Sequence[str]], None], forget: Callable[[Sequence[str]], None]
    ) -> None:
        """
        Copies of another make whose entries an operator may drop.

        Args:
            drop_in_redis: raises RedisAway.
            forget: in memory.
        """
        self._others[name] = _Other(drop_in_redis, forget)

    def find(self, name: str) -> Cache[Any]:
        """
        Raises:
            CacheNotFound: the message says which there are.
        """
        self.check_name(name)
        if name not in self._caches:
            raise CacheNotFound(f"the cache {name} is of another make")
        return self._caches[name]

    def check_name(self, name: str) -> None:
        """
        Raises:
            CacheNotFound: the message says which there are.
        """
        if name not in self.names:
            raise CacheNotFound(
                f"no cache {name[:60]!r} whose entries can be dropped; there are: {', '.join(self.names)}"
            )

    def drop_everywhere(self, name: str, ids: Sequence[str]) -> bool:
        """
        Drop entries from Redis and from the memory of every process.

        Redis first: who drops from memory and asks again must not find the old entry there. False: Redis is away, and
        only this process dropped them.

        Raises:
            CacheNotFound: no such cache.
            InvalidRequest: `field` names the bad id.
        """
        self.check_name(name)
        check_ids(ids)
        drop_in_redis = self._others[name].drop_in_redis if name in self._others else self._caches[name].drop_in_redis
        try:
            drop_in_redis(ids)
        except RedisAway:
            self._forget(name, ids)
            return False
        self._forget(name, ids)
        if self._changes is not None:
            self._changes.tell(EntriesDropped(name, tuple(ids)))
        return True

    def apply(self, change: EntriesDropped) -> None:
        """Another process dropped entries; of a cache that this one does not have, maybe."""
        self._forget(change.cache, change.ids)

    def clear_memory(self, reason: str) -> None:
        """Forget everything in this process, e.g. because changes may have passed unheard."""
        for cache in list(self._caches.values()):
            cache.drop(None, reason=reason)

    def _forget(self, name: str, ids: Sequence[str] | None) -> None:
        if name in self._caches:
            self._caches[name].drop(ids, reason=OPERATOR)
        elif name in self._others and ids is not None:
            self._others[name].forget(ids)
            self.counters(name).invalidated(OPERATOR, len(ids))

    def start(self) -> None:
        """Send figures every five seconds, on a thread of its own."""
        self._sender = threading.Thread(target=self._send, name="cache statistics", daemon=True)
        self._sender.start()

    def is_alive(self) -> bool:
        """False: the thread that sends figures ended by a mistake of ours. Not started counts as alive."""
        return self._sender is None or self._stopping.is_set() or self._sender.is_alive()

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


def check_ids(ids: Sequence[str]) -> None:
    """
    Whether an operator may name these: they become parts of Redis keys.

    Raises:
        InvalidRequest: `field` is `ids`, or the bad one, e.g. `ids[3]`.
    """
    if not 1 <= len(ids) <= MOST_IDS:
        raise InvalidRequest(f"ids: 1 to {MOST_IDS} of them", field="ids")
    for place, id in enumerate(ids):
        if not _ID.fullmatch(id):
            raise InvalidRequest(
                f"ids[{place}]: 1 to 200 letters, digits and . _ : / @ -, as the Redis key of the entry ends",
                field=f"ids[{place}]",
            )
