"""
What a cache declares, and what it needs to know about this process before a copy may grant a right.

    SPEC = CacheSpec(name="virtual_keys", key=lambda hash: f"vkey:{hash}", encode=..., decode=..., version=...,
                     ttl_s=1800, memory_s=60, memory_entries=20_000, grants_rights=True, dropped_by=(KeysChanged,))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

V = TypeVar("V")


def no_limit(_: object) -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec(Generic[V]):
    """
    One cache. Values are immutable, with a version that rises with every change of the truth.

    Args:
        name: of the statistics and the admin API, e.g. `virtual_keys`.
        key: the full Redis key of an entry's id.
        encode: JSON.
        decode: the value of `encode`. ValueError, KeyError, TypeError: corrupt; deleted, counted, loaded again.
        version: of two values the higher is the newer.
        ttl_s: in Redis, seconds; shortened by up to 10 %, so that entries of one moment do not end in one moment.
        memory_s: the same in memory.
        memory_entries: most entries in memory; the least lately used goes first.
        life_s: what is left of the value's own life, seconds; it shortens both. None: no end.
        negative_s: how long "there is none" is remembered, seconds. 0: not at all.
        negative_entries: most such answers; they have a space of their own, so that nobody can push out real entries.
        stale_s: an entry in memory answers so much longer, seconds, while one caller's thread loads it again.
        grants_rights: entries carry a MAC and the epoch of the change log, and answer only while `Trust` says so.
        dropped_by: the events of core/events/access.py that drop entries.
    """

    name: str
    key: Callable[[str], str]
    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]
    version: Callable[[V], int]
    ttl_s: float
    memory_s: float
    memory_entries: int
    life_s: Callable[[V], float | None] = no_limit
    negative_s: float = 0
    negative_entries: int = 0
    stale_s: float = 0
    grants_rights: bool = False
    dropped_by: tuple[type, ...] = ()

    def __post_init__(self) -> None:
        if self.ttl_s <= 0 or self.memory_s <= 0 or self.memory_entries < 1:
            raise ValueError(f"cache {self.name}: ttl_s, memory_s and memory_entries must be above 0")
        if (self.negative_s > 0) != (self.negative_entries > 0):
            raise ValueError(f"cache {self.name}: give negative_s and negative_entries, or neither")
        if self.grants_rights and self.stale_s > 0:
            raise ValueError(f"cache {self.name}: what grants rights is never served stale")


class Trust(Protocol):
    """What a process knows of the change log (core/access/changes/watch.py)."""

    def epoch(self) -> str | None:
        """Of the log; entries in Redis of another one are misses. None: all of them are, and none is written."""
        ...

    def is_current(self) -> bool:
        """Whether changes were read lately. False: entries in memory that grant rights do not answer."""
        ...
