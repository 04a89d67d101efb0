"""
Limits in the memory of one process, while Redis is away: its share of each.

A process's share of a window is what its place among the live ones gives it. Shares below one are not rounded: with a
limit of 1 and four processes each lets one request through in every fourth window. Counted over time every process
passes its part exactly; in one window all together pass less than `limit + processes` (exactly `limit` when every
process has a place of its own). Bounded: the least lately used of 10,000 scopes are forgotten, and begin anew.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import SystemRandom
from typing import TypeVar, cast

from core.access.limits.model import (
    SLOT_RETRY_S,
    SLOTS,
    TOKENS,
    Ask,
    Decision,
    Figures,
    Slots,
    TokenBucket,
    Window,
    decide,
)

SCOPES = 10_000
RESERVATIONS = 1000  # of one scope, that a settle may still correct
WANTED_S = 3600.0  # a bucket saves up for a request that is larger than the share at most so long
_WHOLE = 2**32


@dataclass(frozen=True, slots=True)
class Share:
    """
    Args:
        processes: that share the limits now, this one included; at least 1.
        place: of this process among them, from 0; None: unknown, and taken at random.
    """

    processes: int
    place: int | None = None


ALONE = Share(1, 0)


@dataclass(slots=True)
class _Count:
    number: int = 0
    count: int = 0
    before: int = 0


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float
    wanted: int = 0
    wanted_until: float = 0.0
    reserved: OrderedDict[str, int] = field(default_factory=OrderedDict[str, int])


@dataclass(slots=True)
class _Leases:
    ends: dict[str, float] = field(default_factory=dict[str, float])


_Kept = TypeVar("_Kept", _Count, _Bucket, _Leases)


class LocalLimiter:
    """
    Thread-safe.

    Args:
        share: how the limits are divided now; no I/O. A process that learns later who else lives sets the attribute.
        clock: Unix time, seconds. Windows are aligned to it, so that all processes change windows together.
    """

    def __init__(
        self,
        share: Callable[[], Share] = lambda: ALONE,
        *,
        clock: Callable[[], float] = time.time,
        scopes: int = SCOPES,
    ) -> None:
        self.share = share
        self._clock = clock
        self._scopes = scopes
        self._phase = SystemRandom().randrange(_WHOLE)
        self._kept: OrderedDict[tuple[str, str], _Count | _Bucket | _Leases] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def decide(self, ask: Ask) -> Decision:
        """As the script in Redis does, by this process's share: all or nothing."""
        now = self._clock()
        share = self.share()
        with self._lock:
            looks: list[tuple[Figures, Callable[[], None]]] = [self._window(w, now, share) for w in ask.windows]
            if ask.tokens is not None:
                looks.append(self._tokens(ask.tokens, now, share))
            if ask.slots is not None:
                looks.append(self._slots(ask.slots, now, share))
            rules = [figures for figures, _ in looks]
            decision = decide(rules, now, is_local=True, whole=_whole_limits(ask))
            if decision.allowed:
                for _, take in looks:
                    take()
            while len(self._kept) > self._scopes:
                self._kept.popitem(last=False)
        return decision

    def settle(self, redis_key: str, reservation: str, used: int) -> bool:
        """Correct a reservation made here; False: none of that id, and nothing changes."""
        with self._lock:
            bucket = self._kept.get((redis_key, TOKENS))
            if not isinstance(bucket, _Bucket) or reservation not in bucket.reserved:
                return False
            bucket.level += bucket.reserved.pop(reservation) - used
            return True

    def release(self, redis_key: str, leases: Iterable[str]) -> None:
        with self._lock:
            kept = self._kept.get((redis_key, SLOTS))
            if isinstance(kept, _Leases):
                for lease in leases:
                    kept.ends.pop(lease, None)

    def _part(self, limit: int, number: int, share: Share) -> int:
        """
        This process's part of the window of that number: the n-th parts add up to n times the share, never more than
        one off; with places 0 to n - 1 the parts of one window add up to the limit.
        """
        processes = max(1, share.processes)
        phase = self._phase * processes // _WHOLE if share.place is None else share.place % processes
        return (limit * (number + 1) + phase) // processes - (limit * number + phase) // processes

    def _window(self, rule: Window, now: float, share: Share) -> tuple[Figures, Callable[[], None]]:
        size = rule.window_s
        number = math.floor(now / size)
        kept = self._find((rule.redis_key, rule.name), _Count)
        if kept.number != number:
            kept.before = kept.count if kept.number == number - 1 else 0
            kept.number, kept.count = number, 0
        limit = self._part(rule.limit, number, share)
        left = (1 - (((now - size) / size) % 1)) * size
        weighed = math.floor(kept.before * left / size + kept.count)
        ends_in = (number + 1) * size - now

        def take() -> None:
            kept.count += rule.cost

        figures = Figures(
            rule.name,
            limit,
            rule.cost,
            weighed + rule.cost <= limit,
            limit - weighed,
            math.ceil(ends_in),
            math.floor(ends_in) + 1,  # the next window has another part
            size,
        )
        return figures, take

    def _tokens(self, rule: TokenBucket, now: float, share: Share) -> tuple[Figures, Callable[[], None]]:
        part = rule.limit_per_minute / max(1, share.processes)
        kept = self._find((rule.redis_key, TOKENS), lambda: _Bucket(part, now))
        if rule.cost > part and rule.cost <= rule.limit_per_minute:
            # Larger than the share: saved up for, else it could never pass here.
            kept.wanted, kept.wanted_until = max(kept.wanted, rule.cost), now + WANTED_S
        capacity = max(part, float(kept.wanted)) if now < kept.wanted_until else part
        kept.level = max(-part, min(capacity, kept.level + max(0.0, now - kept.at) * part / 60))
        kept.at = now

        def take() -> None:
            kept.level -= rule.cost
            kept.wanted = 0
            kept.reserved.update(rule.reservations)
            while len(kept.reserved) > RESERVATIONS:
                kept.reserved.popitem(last=False)

        figures = Figures(
            TOKENS,
            math.floor(part),
            rule.cost,
            rule.cost <= 0 or kept.level >= rule.cost,
            math.floor(kept.level),
            math.ceil(max(0.0, part - kept.level) * 60 / part) if part > 0 else 0,
            math.floor(max(0.0, rule.cost - kept.level) * 60 / part) + 1 if part > 0 else 1,
            60,
        )
        return figures, take

    def _slots(self, rule: Slots, now: float, share: Share) -> tuple[Figures, Callable[[], None]]:
        kept = self._find((rule.redis_key, SLOTS), _Leases)
        for lease in [lease for lease, ends_at in kept.ends.items() if not now < ends_at <= now + 2 * rule.lease_s]:
            del kept.ends[lease]
        # Shares below one take turns, a lease's length each.
        limit = self._part(rule.limit, math.floor(now / rule.lease_s), share)

        def take() -> None:
            kept.ends.update(dict.fromkeys(rule.leases, now + rule.lease_s))

        busy, asked = len(kept.ends), len(rule.leases)
        has_room = asked == 0 or busy + asked <= limit
        return Figures(SLOTS, limit, asked, has_room, limit - busy, 0, SLOT_RETRY_S, 0), take

    def _find(self, scope: tuple[str, str], make: Callable[[], _Kept]) -> _Kept:
        found = self._kept.get(scope)
        if found is None:
            made = make()
            self._kept[scope] = made
            return made
        self._kept.move_to_end(scope)
        return cast("_Kept", found)  # the scope's name says which kind it is


def _whole_limits(ask: Ask) -> list[int]:
    limits = [window.limit for window in ask.windows]
    if ask.tokens is not None:
        limits.append(ask.tokens.limit_per_minute)
    if ask.slots is not None:
        limits.append(ask.slots.limit)
    return limits
