"""Each process's share of the limits while Redis is away."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.access.limits.local_limiter import LocalLimiter, Share
from core.access.limits.model import Ask, Slots, TokenBucket, Window

START = 1_790_000_040.0


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


def rpm(limit: int, cost: int = 1, key: str = "k") -> Ask:
    return Ask((Window("rpm", key, limit, 60, cost),))


def passed(limiter: LocalLimiter, ask: Ask, tries: int) -> int:
    return sum(limiter.decide(ask).allowed for _ in range(tries))


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(0, 40), processes=st.integers(1, 9), knows_its_place=st.booleans())
def test_all_processes_together_pass_the_limit(limit: int, processes: int, knows_its_place: bool) -> None:
    clock = Clock()

    places = [place if knows_its_place else None for place in range(processes)]
    limiters = [LocalLimiter(partial(Share, processes, place), clock=clock) for place in places]
    total, windows = 0, processes * 3
    for _ in range(windows):
        in_window = sum(passed(limiter, rpm(limit), limit + 2) for limiter in limiters)
        total += in_window
        if knows_its_place:
            assert in_window <= limit
        assert in_window < limit + processes
        clock.now += 120  # a window between, so that nothing of the last one weighs
    if knows_its_place and limit < processes and processes % 2:  # every second window: all parts come up in turn
        assert total == limit * windows


def test_a_limit_of_one_is_shared_by_four_in_turns() -> None:
    clock = Clock()
    limiters = [LocalLimiter(partial(Share, 4, place), clock=clock) for place in range(4)]

    by_window: list[list[int]] = []
    for _ in range(12):
        by_window.append([passed(limiter, rpm(1), 3) for limiter in limiters])
        clock.now += 60

    assert all(sum(window) == 1 for window in by_window)
    assert [sum(window[place] for window in by_window) for place in range(4)] == [3, 3, 3, 3]


def test_a_refusal_takes_nothing() -> None:
    clock = Clock()
    limiter = LocalLimiter(clock=clock)
    both = Ask((Window("rpm", "k", 5, 60), Window("rpd", "k", 2, 86_400)))
    assert passed(limiter, both, 5) == 2

    assert limiter.decide(rpm(5, cost=3)).allowed


def test_tokens_are_shared_and_a_large_request_is_saved_up_for() -> None:
    clock = Clock()
    limiter = LocalLimiter(lambda: Share(4, 0), clock=clock)
    large = Ask((), TokenBucket("t", 100, 100, (("a", 100),)))

    waited = 0
    while not (decision := limiter.decide(large)).allowed:
        assert decision.can_succeed
        assert decision.is_local
        clock.now += 1
        waited += 1

    assert waited in range(178, 183)  # 75 more tokens at 25 a minute
    assert limiter.settle("t", "a", 80)
    assert not limiter.settle("t", "a", 80)
    assert limiter.decide(Ask((), TokenBucket("t", 100, 20))).allowed
    assert not limiter.decide(Ask((), TokenBucket("t", 100, 101))).can_succeed


def test_leases_are_shared_released_and_end_by_themselves() -> None:
    clock = Clock()
    limiter = LocalLimiter(lambda: Share(2, 0), clock=clock)

    def slot(name: str) -> Ask:
        return Ask((), None, Slots("c", 4, (name,)))

    assert [limiter.decide(slot(name)).allowed for name in "abc"] == [True, True, False]
    limiter.release("c", ["a"])
    assert limiter.decide(slot("d")).allowed
    clock.now += 61
    assert [limiter.decide(slot(name)).allowed for name in "efg"] == [True, True, False]


def test_memory_is_bounded_by_the_scopes_lately_used() -> None:
    limiter = LocalLimiter(clock=Clock(), scopes=100)
    for number in range(1000):
        limiter.decide(rpm(1, key=f"k{number}"))
        limiter.decide(rpm(1, key="kept"))

    assert len(limiter) == 100
    assert not limiter.decide(rpm(1, key="kept")).allowed


@pytest.mark.parametrize("processes", [0, -3])
def test_a_count_of_no_process_counts_as_this_one(processes: int) -> None:
    limiter = LocalLimiter(lambda: Share(processes), clock=Clock())
    assert passed(limiter, rpm(3), 9) == 3
