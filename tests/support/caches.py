"""A cache of tests: values with a version, a truth that can be changed, and trust that can be taken away."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from core.cache.caches import Caches
from core.cache.spec import CacheSpec
from core.connections import RedisLink
from core.events.access import EntriesDropped


@dataclass(frozen=True, slots=True)
class Pass:
    """What a cache of tests holds."""

    version: int
    enabled: bool = True
    life_s: float | None = None


def encode(value: Pass) -> bytes:
    return orjson.dumps({"version": value.version, "enabled": value.enabled, "life_s": value.life_s})


def decode(text: bytes) -> Pass:
    found = orjson.loads(text)
    return Pass(int(found["version"]), bool(found["enabled"]), found["life_s"])


def pass_spec(prefix: str, **fields: Any) -> CacheSpec[Pass]:
    """Entries under `{prefix}{id}`; long-lived unless `fields` say otherwise."""
    given: dict[str, Any] = {
        "name": "passes",
        "key": lambda id: prefix + id,
        "encode": encode,
        "decode": decode,
        "version": lambda value: value.version,
        "life_s": lambda value: value.life_s,
        "ttl_s": 600.0,
        "memory_s": 300.0,
        "memory_entries": 10_000,
    }
    return CacheSpec(**{**given, **fields})


class StaticTrust:
    """Trust without a change log: what it says is set by the test."""

    def __init__(self, epoch: str | None = "e1") -> None:
        self.now_epoch = epoch
        self.current = True

    def epoch(self) -> str | None:
        return self.now_epoch

    def is_current(self) -> bool:
        return self.current


@dataclass
class Truth:
    """The rows behind a cache; counts how often it was asked."""

    rows: dict[str, Pass] = field(default_factory=dict)
    loads: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, id: str) -> Pass | None:
        with self._lock:
            self.loads += 1
        return self.rows.get(id)

    def change(self, id: str, **fields: Any) -> int:
        """The version after it."""
        there = self.rows.get(id, Pass(0))
        self.rows[id] = replace(there, version=there.version + 1, **fields)
        return self.rows[id].version


class Relay:
    """The change log of several processes in one: every one of them hears at once."""

    def __init__(self) -> None:
        self.listeners: list[Caches] = []
        self.told: list[EntriesDropped] = []

    def tell(self, change: EntriesDropped) -> None:
        self.told.append(change)
        for caches in self.listeners:
            caches.apply(change)


class Process:
    """The caches of one process: memory of its own over the Redis of all."""

    def __init__(
        self,
        link: RedisLink,
        spec: CacheSpec[Pass],
        load: Callable[[str], Pass | None],
        *,
        trust: StaticTrust | None = None,
        relay: Relay | None = None,
        pepper: str = "pepper of tests",
    ) -> None:
        self.trust = trust or StaticTrust()
        self.caches = Caches(link, pepper=pepper, trust=self.trust, changes=relay)
        self.cache = self.caches.add(spec, load)
        if relay is not None:
            relay.listeners.append(self.caches)


def announce(processes: Sequence[Process], id: str, version: int) -> None:
    """A row changed and every process heard: the tombstone first, then the memories."""
    processes[0].cache.drop_in_redis([id], newer_than=version)
    for process in processes:
        process.cache.drop([id], reason="key", newer_than=version)


def fresh_prefix() -> str:
    return f"c{secrets.token_hex(4)}:"
