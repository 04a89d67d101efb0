"""How many tasks one claim may take."""

from __future__ import annotations

from workers.look_ahead import MOST, Pace


def test_the_first_claim_takes_one_task() -> None:
    assert Pace().limit() == 1


def test_short_tasks_raise_it_step_by_step_to_sixteen() -> None:
    pace = Pace()

    limits: list[int] = []
    for _ in range(6):
        pace.note(0.0001)
        limits.append(pace.limit())

    assert limits == [2, 4, 8, 16, 16, 16]


def test_what_is_claimed_together_is_at_most_50_ms_of_work() -> None:
    pace = Pace()
    for _ in range(100):
        pace.note(0.01)

    assert pace.limit() == 5


def test_calls_to_a_provider_are_claimed_one_by_one() -> None:
    pace = Pace()
    for _ in range(100):
        pace.note(1.5)

    assert pace.limit() == 1


def test_one_slow_task_takes_all_trust_back() -> None:
    pace = Pace()
    for _ in range(10):
        pace.note(0.0001)
    assert pace.limit() == MOST

    pace.note(30.0)

    assert pace.limit() == 1
