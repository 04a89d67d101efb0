"""Figures of the caches, as they are read by people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.cache.counters import ASKS, BY_REASON, HITS

Counts = Mapping[str, int]
"""As `Counters.take` gives them."""


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """Of one cache; `hits + misses` is the number of questions to it."""

    name: str
    counts: Counts

    @property
    def hits(self) -> int:
        """Answered from memory, Redis, or a remembered "there is none"."""
        return sum(self.counts.get(name, 0) for name in HITS)

    @property
    def misses(self) -> int:
        """Loaded, or waited for somebody's load."""
        return sum(self.counts.get(name, 0) for name in ASKS if name not in HITS)

    @property
    def invalidations(self) -> int:
        return sum(count for name, count in self.counts.items() if name.startswith(BY_REASON))

    def to_document(self) -> dict[str, object]:
        """Times in milliseconds; `hit_ratio` is null while nothing was asked."""
        counts = self.counts
        loads = counts.get("loads", 0)
        return {
            "name": self.name,
            "hits": self.hits,
            "misses": self.misses,
            "hit_ratio": hit_ratio(self.hits, self.misses),
            "from": {name: counts.get(name, 0) for name in HITS},
            "coalesced": counts.get("coalesced", 0),
            "loads": {
                "count": loads,
                "failed": counts.get("failed_loads", 0),
                "mean_ms": round(counts.get("load_us", 0) / loads / 1000, 3) if loads else None,
                "max_ms": round(counts.get("load_max_us", 0) / 1000, 3) if loads else None,
            },
            "corrupt": counts.get("corrupt", 0),
            "old_epoch": counts.get("old_epoch", 0),
            "refused_writes": counts.get("refused_writes", 0),
            "invalidations": {
                "count": self.invalidations,
                "by_reason": {
                    name.removeprefix(BY_REASON): count
                    for name, count in sorted(counts.items())
                    if name.startswith(BY_REASON)
                },
            },
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """
    Of all caches.

    Args:
        reset_at: RFC 3339; None: never counted.
        age_s: what was counted this long ago is in them, in every process.
        is_complete: False: Redis is away or switched off, and these are this process's alone.
    """

    caches: tuple[CacheFigures, ...]
    hits: int
    misses: int
    invalidations: int
    reset_at: str | None
    age_s: float
    is_complete: bool

    def to_document(self) -> dict[str, object]:
        return {
            "hits": self.hits,
            "misses": self.misses,
            "hit_ratio": hit_ratio(self.hits, self.misses),
            "invalidations": self.invalidations,
            "reset_time": self.reset_at,
            "age_s": self.age_s,
            "is_complete": self.is_complete,
            "caches": [cache.to_document() for cache in self.caches],
        }


def figures_of(counted: Mapping[str, Counts], *, reset_at: str | None, age_s: float, is_complete: bool) -> Figures:
    """Figures of what was counted by cache, with totals that are their sums."""
    caches = tuple(CacheFigures(name, counted[name]) for name in sorted(counted))
    return Figures(
        caches,
        hits=sum(cache.hits for cache in caches),
        misses=sum(cache.misses for cache in caches),
        invalidations=sum(cache.invalidations for cache in caches),
        reset_at=reset_at,
        age_s=age_s,
        is_complete=is_complete,
    )


def hit_ratio(hits: int, misses: int) -> float | None:
    return round(hits / (hits + misses), 4) if hits + misses else None


def added(one: Counts, other: Counts) -> dict[str, int]:
    """Sums, but for the greatest of greatest times."""
    both = dict(one)
    for name, count in other.items():
        both[name] = max(both.get(name, 0), count) if name == "load_max_us" else both.get(name, 0) + count
    return both
