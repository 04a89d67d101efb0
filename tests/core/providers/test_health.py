from __future__ import annotations

from datetime import timedelta

import pytest

from core.providers.errors import ProviderFailure
from core.providers.health import FAILURES, FIRST_PAUSE_S, LONGEST_BUSY_S, LONGEST_PAUSE_S, MOST_BUSY, Health

AWAY = ProviderFailure("away", code="provider_unavailable", retryable=True)
REJECTED = ProviderFailure("no", code="provider_rejected", retryable=False)
TIMEOUT = ProviderFailure("slow", code="provider_timeout", retryable=True)
SHORT, LONG = timedelta(seconds=1), timedelta(seconds=10)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def fail(health: Health, times: int = 1, failure: ProviderFailure = AWAY, took: timedelta = SHORT) -> None:
    for _ in range(times):
        health.failed("p", "m", failure, took=took)


def limited(seconds: float | None) -> ProviderFailure:
    wait = None if seconds is None else timedelta(seconds=seconds)
    return ProviderFailure("429", code="provider_rate_limited", retryable=True, rate_limited=True, retry_after=wait)


def test_a_provider_is_down_after_failures_in_a_row_and_not_before(health: Health) -> None:
    fail(health, FAILURES - 1)
    assert health.admits("p", "m")

    health.succeeded("p")
    fail(health, FAILURES - 1)
    assert health.admits("p", "m")

    fail(health)
    assert not health.admits("p", "m")
    assert health.admits("other", "m")


def test_after_the_pause_one_caller_is_the_probe_and_the_pause_doubles_to_a_minute(
    health: Health, clock: Clock
) -> None:
    fail(health, FAILURES)
    pauses: list[float] = []
    for _ in range(8):
        began = clock.now
        while not health.admits("p", "m"):
            clock.now += 0.25
        assert [health.admits("p", "m") for _ in range(3)] == [False] * 3
        pauses.append(clock.now - began)
        fail(health)

    assert pauses == [FIRST_PAUSE_S, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_probe_that_succeeds_ends_it_at_once(health: Health, clock: Clock) -> None:
    fail(health, FAILURES)
    clock.now += FIRST_PAUSE_S
    assert health.admits("p", "m")

    health.succeeded("p")

    assert [health.admits("p", "m") for _ in range(3)] == [True] * 3


def test_a_probe_that_never_ends_is_followed_by_another(health: Health, clock: Clock) -> None:
    fail(health, FAILURES)
    clock.now += FIRST_PAUSE_S
    assert health.admits("p", "m")

    clock.now += FIRST_PAUSE_S

    assert health.admits("p", "m")


def test_many_calls_that_fail_together_count_as_one_outage(health: Health, clock: Clock) -> None:
    fail(health, 50)

    clock.now += FIRST_PAUSE_S

    assert health.admits("p", "m")


def test_answers_to_one_request_say_nothing_about_the_provider(health: Health) -> None:
    fail(health, FAILURES - 1)
    fail(health, 1, REJECTED)
    fail(health, FAILURES - 1)

    assert health.admits("p", "m")


def test_a_timeout_counts_only_when_the_provider_had_time(health: Health) -> None:
    fail(health, 10, TIMEOUT, SHORT)
    assert health.admits("p", "m")

    fail(health, FAILURES, TIMEOUT, LONG)
    assert not health.admits("p", "m")


def test_a_rate_limit_holds_for_its_model_until_the_provider_said(health: Health, clock: Clock) -> None:
    fail(health, 5, limited(7))

    assert not health.admits("p", "m")
    assert health.admits("p", "other")
    clock.now += 6.9
    assert not health.admits("p", "m")
    clock.now += 0.2
    assert health.admits("p", "m")


def test_a_rate_limit_without_a_time_is_short_and_a_mistaken_one_is_bounded(health: Health, clock: Clock) -> None:
    fail(health, 1, limited(None))
    clock.now += 1.1
    assert health.admits("p", "m")

    fail(health, 1, limited(86_400))
    clock.now += LONGEST_BUSY_S + 1
    assert health.admits("p", "m")


def test_models_that_callers_make_up_take_bounded_memory(health: Health, clock: Clock) -> None:
    for number in range(MOST_BUSY + 500):
        health.failed("p", f"m{number}", limited(5), took=SHORT)
    assert not health.admits("p", "m0")

    clock.now += 10
    health.failed("p", "late", limited(5), took=SHORT)

    assert not health.admits("p", "late")
