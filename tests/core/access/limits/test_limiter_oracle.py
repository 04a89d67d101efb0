"""Under a frozen clock our windows decide as the `limits` library's sliding-window counter does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage, memory
from limits.strategies import SlidingWindowCounterRateLimiter

from core.access.limits.limiter import Limiter
from core.access.limits.model import Ask, Window

_numbers = itertools.count()
START = 1_790_000_000.0


@dataclass
class Clock:
    now: float = START


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that `limits` sees; its module only ever calls `time.time()`."""
    clock = Clock()
    monkeypatch.setattr(memory, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


_steps = st.lists(
    st.tuples(
        st.one_of(
            st.just(0.0),
            st.floats(0, 2.5),  # times the window
            st.integers(0, 8).map(lambda eighths: eighths / 8),
            st.integers(0, 2_000_000).map(lambda micros: micros / 60_000_000),
        ),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.one_of(st.integers(1, 12), st.integers(1, 10_000), st.just(2**31 - 1)),
    window_s=st.sampled_from([10, 60, 3600, 86_400]),
    offset=st.floats(0, 86_400),
    steps=_steps,
)
def test_decides_as_limits_does(
    limiter: Limiter, clock: Clock, *, limit: int, window_s: int, offset: float, steps: list[tuple[float, int]]
) -> None:
    oracle = SlidingWindowCounterRateLimiter(MemoryStorage())
    item = RateLimitItemPerSecond(limit, window_s)
    key = f"oracle:{next(_numbers)}"
    clock.now = START + offset

    for windows_later, cost in steps:
        clock.now = round(clock.now + windows_later * window_s, 6)
        asked = min(cost * max(1, limit // 10), 2**31)
        expected = oracle.hit(item, key, cost=asked)
        decision = limiter.decide(Ask((Window("rpm", key, limit, window_s, asked),)), now=clock.now)

        assert decision.allowed == expected, (clock.now, asked)
        assert decision.states[0].remaining == oracle.get_window_stats(item, key).remaining


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 50), steps=_steps, cost=st.integers(1, 50))
def test_a_refused_ask_passes_after_its_retry_after(
    limiter: Limiter, limit: int, steps: list[tuple[float, int]], cost: int
) -> None:
    key = f"retry:{next(_numbers)}"
    now = START
    for windows_later, before in steps:
        now += windows_later * 60
        limiter.decide(Ask((Window("rpm", key, limit, 60, before),)), now=now)

    ask = Ask((Window("rpm", key, limit, 60, cost),))
    decision = limiter.decide(ask, now=now)

    if decision.allowed:
        return
    if not decision.can_succeed:
        assert cost > limit
        return
    if decision.retry_after_s > 1:
        # Rounded up to whole seconds: a hair before the second it is rounded up from, it is too early.
        assert not limiter.decide(ask, now=now + decision.retry_after_s - 1.001).allowed
    assert limiter.decide(ask, now=now + decision.retry_after_s).allowed
