"""The rules of due times, against an oracle that looks at every minute of the odd days of three zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.schedules.due import MOST_FIRED, WALK, check_timing, decide, fire_time, following, preview
from core.schedules.model import Missed, Timing
from tests.core.schedules.slow_oracle import Days, due_times

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
ODD_DAYS = [
    Days.around("Europe/Berlin", datetime(2026, 3, 29)),
    Days.around("Europe/Berlin", datetime(2026, 10, 25)),
    Days.around("America/New_York", datetime(2026, 3, 8)),
    Days.around("America/New_York", datetime(2026, 11, 1)),
    Days.around("Australia/Lord_Howe", datetime(2026, 4, 5)),  # half an hour, backwards
    Days.around("Australia/Lord_Howe", datetime(2026, 10, 4)),
]


def cron_of(text: str, zone: str = "UTC") -> Timing:
    return Timing(name="nightly", anchor_at=ANCHOR, cron=text, timezone=zone)


def every(seconds: float, *, jitter_s: float = 0) -> Timing:
    return Timing(name="often", anchor_at=ANCHOR, every_s=seconds, jitter_s=jitter_s)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    return st.one_of(
        numbers.map(str),
        st.lists(numbers, min_size=1, max_size=4).map(lambda found: ",".join(map(str, found))),
        st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.sampled_from(["*/2", "*/7", "*/15", "*"]),
    )


# The hours around the change are drawn more often: that is where it can go wrong.
crons = st.tuples(
    field(0, 59),
    st.one_of(st.sampled_from(["1", "2", "3", "1,2", "2-3", "*", "*/2", "0-23", "0", "23"]), field(0, 23)),
    st.sampled_from(["*", "*", "*", "1-10", "29", "25,4"]),
    st.just("*"),
    st.sampled_from(["*", "*", "SUN", "1-5"]),
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ODD_DAYS), crons, st.integers(0, 3 * 24 * 60))
def test_every_due_time_of_the_odd_days_is_the_oracles(days: Days, cron: str, start: int) -> None:
    after = days.minutes[start][0]
    expected = [at for at in due_times(cron.replace("SUN", "0"), days) if at > after]

    found = preview(cron_of(cron, days.zone), after=after, count=len(expected) + 1)

    assert [at for at in found if at <= days.minutes[-1][0]] == expected


_AUTUMN = ((2, (0, 1, 2)), (1, range(2, 24)))  # hours of the offsets +02:00 and +01:00


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        ("30 2 * * *", "2026-03-29", ["03:00+02:00"]),
        ("0,15,30,45 2 * * *", "2026-03-29", ["03:00+02:00"]),
        ("30 2,3 * * *", "2026-03-29", ["03:00+02:00", "03:30+02:00"]),
        ("30 2 * * *", "2026-10-25", ["02:30+02:00"]),
        ("30 1-3 * * *", "2026-10-25", ["01:30+02:00", "02:30+02:00", "03:30+01:00"]),
        ("30 * 25 10 *", "2026-10-25", [f"{h:02}:30+0{z}:00" for z, hs in _AUTUMN for h in hs]),
    ],
)
def test_the_odd_days_of_berlin(cron: str, day: str, expected: list[str]) -> None:
    timing = cron_of(cron, "Europe/Berlin")
    midnight = datetime.fromisoformat(f"{day}T00:00+00:00") - timedelta(hours=2, seconds=1)

    local = [at.astimezone(ZoneInfo("Europe/Berlin")) for at in preview(timing, after=midnight, count=40)]

    assert [at.isoformat()[11:16] + at.isoformat()[19:] for at in local if at.date().isoformat() == day] == expected


@pytest.mark.parametrize(
    ("timing", "field"),
    [
        (cron_of("0 0 31 2 *"), "cron"),
        (cron_of("0 0 31 4,6,9,11 *"), "cron"),
        (cron_of("* * * * * *"), "cron"),
        (cron_of("* * * *"), "cron"),
        (cron_of(""), "cron"),
        (cron_of("60 * * * *"), "cron"),
        (cron_of("@daily"), "cron"),
        (cron_of("0 0 * * MON#6"), "cron"),
        (cron_of("1," * 150 + "1 * * * *"), "cron"),
        (cron_of("* * * * *", "Mars/Olympus"), "timezone"),
        (cron_of("* * * * *", ""), "timezone"),
        (cron_of("* * * * *", "../etc/passwd"), "timezone"),
        (cron_of("* * * * *", "Europe/Berlin\x00"), "timezone"),
        (every(0.5), "every_s"),
        (every(float("nan")), "every_s"),
        (every(1e9), "every_s"),
        (every(10, jitter_s=10), "jitter_s"),
        (every(10, jitter_s=-1), "jitter_s"),
        (Timing(name="x", anchor_at=ANCHOR), "cron"),
        (Timing(name="x", anchor_at=ANCHOR, cron="* * * * *", every_s=5), "cron"),
    ],
)
def test_a_timing_that_cannot_work_is_refused_with_its_field(timing: Timing, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_timing(timing)

    assert refused.value.field == field


def test_a_leap_day_is_a_day_that_exists() -> None:
    check_timing(cron_of("0 0 29 2 *"))

    assert following(cron_of("0 0 29 2 *"), ANCHOR) == datetime(2028, 2, 29, tzinfo=UTC)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(
        [every(1), every(7.3), every(90, jitter_s=60), cron_of("*/5 * * * *", "Europe/Berlin"), cron_of("17 2 * * *")]
    ),
    st.sampled_from(list(Missed)),
    st.lists(st.floats(0.01, 90_000), min_size=1, max_size=12),
)
def test_each_due_time_is_fired_or_skipped_exactly_once(timing: Timing, missed: Missed, pauses: list[float]) -> None:
    """Whenever somebody looks: what is fired and skipped, taken together, is every due time until then, in order."""
    first = following(timing, ANCHOR)
    assert first is not None
    now, next_due = ANCHOR, first
    covered = 0
    for pause in pauses:
        now += timedelta(seconds=pause)
        decision = decide(timing, first=next_due, now=now, missed=missed)
        covered += len(decision.fire) + (decision.skipped.due_times if decision.skipped else 0)
        assert decision.next_due is not None
        if decision.skipped:
            assert decision.skipped.first == next_due
            assert all(at > decision.skipped.last for at in decision.fire)
        assert decision.fire == sorted(decision.fire)
        next_due = decision.next_due

    assert fire_time(timing, next_due) > now
    expected = 0
    due: datetime | None = first
    if timing.every_s is not None:
        while (at := ANCHOR + timedelta(seconds=(expected + 1) * timing.every_s)) < next_due:
            expected += 1
            assert fire_time(timing, at) <= now
    else:
        while due is not None and due < next_due:
            expected += 1
            due = following(timing, due)
    assert covered == expected


def test_skip_fires_what_is_hardly_late_and_records_the_rest() -> None:
    timing = cron_of("*/10 * * * *")
    first = ANCHOR + timedelta(minutes=10)

    punctual = decide(timing, first=first, now=first + timedelta(seconds=59), missed=Missed.SKIP)
    late = decide(timing, first=first, now=first + timedelta(seconds=61), missed=Missed.SKIP)

    assert punctual.fire == [first]
    assert punctual.skipped is None
    assert late.fire == []
    assert late.skipped is not None
    assert (late.skipped.first, late.skipped.last, late.skipped.due_times) == (first, first, 1)


def test_latest_fires_the_newest_of_a_downtime() -> None:
    decision = decide(every(60), first=ANCHOR, now=ANCHOR + timedelta(hours=1, seconds=1), missed=Missed.LATEST)

    assert decision.fire == [ANCHOR + timedelta(hours=1)]
    assert decision.skipped is not None
    assert decision.skipped.due_times == 60


def test_all_is_bounded_and_records_what_is_older() -> None:
    decision = decide(every(1), first=ANCHOR, now=ANCHOR + timedelta(days=400), missed=Missed.ALL)

    assert len(decision.fire) == MOST_FIRED
    assert decision.fire[-1] == ANCHOR + timedelta(days=400)
    assert decision.skipped is not None
    assert decision.skipped.due_times == 400 * 86_400 + 1 - MOST_FIRED


def test_a_year_of_missed_minutes_is_worked_off_in_bounded_steps_and_the_last_hundred_are_fired() -> None:
    timing = cron_of("* * * * *")
    now = ANCHOR + timedelta(days=8, seconds=1)
    next_due, fired, skipped, steps = ANCHOR + timedelta(minutes=1), 0, 0, 0

    while next_due <= now:
        decision = decide(timing, first=next_due, now=now, missed=Missed.ALL)
        fired += len(decision.fire)
        skipped += decision.skipped.due_times if decision.skipped else 0
        assert decision.next_due is not None
        next_due, steps = decision.next_due, steps + 1

    assert (fired, skipped) == (MOST_FIRED, 8 * 1440 - MOST_FIRED)
    assert steps == 8 * 1440 // WALK + 1


def test_jitter_is_the_same_for_everybody_and_spreads_names() -> None:
    timing = every(3600, jitter_s=600)
    other = Timing(name="other", anchor_at=ANCHOR, every_s=3600, jitter_s=600)
    dues = [ANCHOR + timedelta(hours=n) for n in range(50)]

    delays = [(fire_time(timing, due) - due).total_seconds() for due in dues]

    assert delays == [(fire_time(timing, due) - due).total_seconds() for due in dues]
    assert all(0 <= delay <= 600 for delay in delays)
    assert max(delays) - min(delays) > 300
    assert delays != [(fire_time(other, due) - due).total_seconds() for due in dues]
