"""
What a request asks of its limits, and what was decided. Pure: no clock, no I/O.

An ask is decided as a whole: either every rule has room and all is taken, or nothing is taken anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOKENS = "tpm"
SLOTS = "concurrency"
LEASE_S = 60.0  # of a concurrent task; renewed every 15 s, so three renewals may be lost
LARGEST = 2**52  # limits and costs above it are cut: Lua counts in doubles, exact up to 2**53
SLOT_RETRY_S = 2  # a task may end at any time: ask again soon, but not in a tight loop


@dataclass(frozen=True, slots=True)
class Window:
    """
    So many requests in a window that slides over two fixed ones: `limits`' sliding-window counter.

    Args:
        name: of the rule, as headers and refusals show it: `rpm`, `rpd`, `ip`. Also the field in the Redis hash.
        cost: how many requests this one counts for; 0 only looks.
    """

    name: str
    redis_key: str
    limit: int
    window_s: int
    cost: int = 1


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """
    Tokens a minute: the bucket holds `limit_per_minute` and fills at a sixtieth of it a second.

    Args:
        cost: taken now, all reservations together.
        reservations: (id, tokens) that `settle` corrects later; ids are public ids of tasks.
    """

    redis_key: str
    limit_per_minute: int
    cost: int
    reservations: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """Tasks at the same time: each takes a lease that ends by itself unless it is renewed."""

    redis_key: str
    limit: int
    leases: tuple[str, ...]
    lease_s: float = LEASE_S


@dataclass(frozen=True, slots=True)
class Ask:
    """Everything one request must pass; the first rule without room is the one that is named."""

    windows: tuple[Window, ...] = ()
    tokens: TokenBucket | None = None
    slots: Slots | None = None

    @property
    def is_empty(self) -> bool:
        return not self.windows and self.tokens is None and self.slots is None


@dataclass(frozen=True, slots=True)
class RuleState:
    """
    One rule after the decision.

    Args:
        limit: what the decision went by; while Redis is away this process's share.
        remaining: requests, tokens or tasks still free.
        reset_s: seconds, rounded up: to the end of the window, or until the bucket is full; 0 for concurrency.
        window_s: 0 for concurrency, which has none.
    """

    name: str
    limit: int
    remaining: int
    reset_s: int
    window_s: int


@dataclass(frozen=True, slots=True)
class Decision:
    """
    Args:
        refused_by: name of the rule; None when allowed.
        retry_after_s: when the same ask passes if nobody else asks; 0 when allowed, and when it never can.
        states: in the order of the ask: windows, tokens, slots.
        at: Unix time of the decision by the clock that made it, seconds.
        can_succeed: False: it costs more than the whole limit, so no waiting helps.
        is_local: decided in this process because Redis was away.
    """

    allowed: bool
    refused_by: str | None = None
    retry_after_s: int = 0
    states: tuple[RuleState, ...] = ()
    at: float = 0.0
    can_succeed: bool = True
    is_local: bool = False

    @property
    def refused(self) -> RuleState | None:
        """The state of the rule that refused."""
        return next((state for state in self.states if state.name == self.refused_by), None)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one rule says to an ask, whoever computed it: `remaining` is what is left when nothing is taken."""

    name: str
    limit: int
    cost: int
    has_room: bool
    remaining: int
    reset_s: int
    retry_s: int
    window_s: int


def decide(
    rules: Sequence[Figures], at: float, *, is_local: bool = False, whole: Sequence[int] | None = None
) -> Decision:
    """
    All or nothing.

    Args:
        whole: the limits that the rules' are shares of; None: they are whole. What costs more than that never passes.
    """
    place = next((i for i, rule in enumerate(rules) if not rule.has_room), None)
    refusing = None if place is None else rules[place]
    states = tuple(
        RuleState(
            rule.name,
            rule.limit,
            max(0, rule.remaining - (rule.cost if refusing is None else 0)),
            rule.reset_s,
            rule.window_s,
        )
        for rule in rules
    )
    if place is None or refusing is None:
        return Decision(True, states=states, at=at, is_local=is_local)
    hopeless = refusing.cost > (refusing.limit if whole is None else whole[place])
    return Decision(
        False,
        refused_by=refusing.name,
        retry_after_s=0 if hopeless else max(1, refusing.retry_s),
        states=states,
        at=at,
        can_succeed=not hopeless,
        is_local=is_local,
    )


ALLOWED = Decision(True)
"""Nothing was asked."""
