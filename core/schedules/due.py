"""
When a schedule is due. Pure: no clock, no database.

Cron text has five fields: minute, hour, day of month, month, day of week; names (MON, JAN), ranges, steps, `L`, `LW`
and `MON#2` as in cronsim. It is read in the schedule's time zone. On the two odd days of a zone:
- a local time that is skipped runs once, at the end of the gap; several that are skipped run once together;
- a local time that is repeated runs once, the first time;
- cron text that names every hour means "each so many minutes": it follows elapsed time, so it neither pauses for an
  hour in autumn nor runs twice at the end of the gap in spring.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from core.errors import InvalidRequest
from core.schedules.model import Missed, Timing

MOST_FIRED = 100  # of missed due times at once, with `missed: all`
WALK = 10_000  # due times of a cron text looked at in one decision: 0.1 s of work; the rest is another decision's
GRACE_S = 60.0
MAX_EVERY_S = 366 * 86_400.0
MAX_JITTER_S = 3600.0
_ALL_HOURS = set(range(24))


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Due times that nobody will run: `due_times` of them, from `first` to `last`."""

    first: datetime
    last: datetime
    due_times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What to do with the due times that have passed.

    Args:
        fire: in their order.
        last_due: the newest that is done with now; None: none has come yet.
        next_due: the one after it; None: never again.
    """

    fire: list[datetime]
    skipped: Skipped | None
    last_due: datetime | None
    next_due: datetime | None


def check_timing(timing: Timing) -> None:
    """
    Raises:
        InvalidRequest: names the field: `cron`, `every_s`, `timezone` or `jitter_s`.
    """
    if (timing.cron is None) == (timing.every_s is None):
        raise InvalidRequest("give either cron or every_s", field="cron")
    _check_zone(timing.timezone)
    if not 0 <= timing.jitter_s <= MAX_JITTER_S:
        raise InvalidRequest(f"jitter_s must be between 0 and {MAX_JITTER_S:g} seconds", field="jitter_s")
    if timing.every_s is not None:
        if not 1 <= timing.every_s <= MAX_EVERY_S:
            raise InvalidRequest(f"every_s must be between 1 and {MAX_EVERY_S:g} seconds", field="every_s")
        if timing.jitter_s >= timing.every_s:
            raise InvalidRequest("jitter_s must be less than every_s", field="jitter_s")
        return
    _check_cron(timing)


def preview(timing: Timing, *, after: datetime, count: int = 10) -> list[datetime]:
    """The next `count` due times after a time, fewer if there are no more within 50 years."""
    found: list[datetime] = []
    for due in _due_times(timing, after):
        found.append(due)
        if len(found) == count:
            break
    return found


def following(timing: Timing, after: datetime) -> datetime | None:
    """The first due time after a time; None: never again."""
    return next(_due_times(timing, after), None)


def fire_time(timing: Timing, due: datetime) -> datetime:
    """When a due time is fired: jittered by its name and time alone, so that every process agrees."""
    if timing.jitter_s == 0:
        return due
    digest = hashlib.sha256(f"{timing.name} {due.astimezone(UTC).isoformat()}".encode()).digest()
    return due + timedelta(seconds=timing.jitter_s * int.from_bytes(digest[:6], "big") / 2**48)


def decide(timing: Timing, *, first: datetime, now: datetime, missed: Missed) -> Decision:
    """
    Sort the due times from `first` (one of them) until `now` into fired and skipped.

    With a cron text a decision looks at no more than 10,000 due times; its `next_due` is then still in the past, and
    the next decision goes on from there. What is left out of `fire` by the policy is one skipped range before it.
    """
    passed, next_due = _passed(timing, first, now)
    if passed is None:
        return Decision(fire=[], skipped=None, last_due=None, next_due=first)
    caught_up = next_due is None or fire_time(timing, next_due) > now
    fire = _to_fire(timing, passed, next_due, now=now, missed=missed) if caught_up else []
    skipped = passed.but_last(len(fire))
    return Decision(fire=fire, skipped=skipped, last_due=passed.last, next_due=next_due)


def _to_fire(
    timing: Timing, passed: _Passed, next_due: datetime | None, *, now: datetime, missed: Missed
) -> list[datetime]:
    match missed:
        case Missed.ALL:
            return passed.newest(MOST_FIRED)
        case Missed.LATEST:
            return passed.newest(1)
        case Missed.SKIP:
            period = (next_due - passed.last) if next_due is not None else timedelta(days=1)
            grace = min(timedelta(seconds=GRACE_S), period / 2)
            return passed.newest(1) if now - fire_time(timing, passed.last) <= grace else []


class _Passed:
    """Due times in a row, the newest of them at hand."""

    def __init__(self, first: datetime, tail: list[datetime], count: int) -> None:
        self.first = first
        self.last = tail[-1]
        self._tail = tail
        self._count = count

    def newest(self, count: int) -> list[datetime]:
        return self._tail[-count:]

    def but_last(self, fired: int) -> Skipped | None:
        left = self._count - fired
        if left == 0:
            return None
        last = self.last if fired == 0 else self._tail[-fired - 1]
        return Skipped(first=self.first, last=last, due_times=left)


def _passed(timing: Timing, first: datetime, now: datetime) -> tuple[_Passed | None, datetime | None]:
    """What passed, and the due time after it. Nothing passed: (None, first)."""
    start, count = first, 0
    if timing.every_s is not None:
        # The tail is enough for any policy; what lies before it is counted, not walked.
        tail_s = timing.jitter_s + (MOST_FIRED + 1) * timing.every_s
        jump = math.floor(((now - first).total_seconds() - tail_s) / timing.every_s)
        if jump > 0:
            start, count = _nth(timing, _place(timing, first) + jump), jump
    tail: list[datetime] = []
    walk = _due_times(timing, start)
    upcoming: datetime | None = start
    while upcoming is not None and fire_time(timing, upcoming) <= now:
        tail.append(upcoming)
        if len(tail) == WALK + MOST_FIRED:
            # Leave a full hundred to the decision that catches up, in case the policy fires them.
            return _Passed(first, tail[:WALK], count + WALK), tail[WALK]
        upcoming = next(walk, None)
    return (_Passed(first, tail, count + len(tail)) if tail else None), upcoming


def _due_times(timing: Timing, after: datetime) -> Iterator[datetime]:
    """Due times after `after`, aware UTC, strictly increasing."""
    if timing.cron is None:
        index = _place(timing, after) - 1  # one early: rounding to microseconds must not hide one
        while True:
            due = _nth(timing, index)
            if due > after:
                yield due
            index += 1
    last = after
    for due in _cron_times(timing.cron, _zone(timing.timezone), after):
        # cronsim may start a little early at a fold, and two local times may meet at the end of a gap.
        if due > last:
            yield due
            last = due


def _nth(timing: Timing, index: int) -> datetime:
    return timing.anchor_at + timedelta(seconds=index * (timing.every_s or 0))


def _place(timing: Timing, at: datetime) -> int:
    """Of the due time nearest to `at`."""
    return round((at - timing.anchor_at).total_seconds() / (timing.every_s or 1))


def _cron_times(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    if _names_every_hour(cron):
        yield from _as_shown(cron, zone, after)
        return
    for local in CronSim(cron, after.astimezone(zone).replace(tzinfo=None)):
        yield _first_instant(local, zone)


def _as_shown(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """
    Each instant at which the zone's clocks show a time that matches, in a repeated hour both times.

    cronsim 2.8 is only asked about times without a zone: with one it steps over the half hour of Lord Howe's autumn.
    """
    at, offset = after, _offset(after, zone)
    start = after.replace(tzinfo=None) + offset
    while True:
        for local in CronSim(cron, start):
            instant = local.replace(tzinfo=UTC) - offset
            if _offset(instant, zone) == offset:
                yield instant
                at = instant
                continue
            # The clocks were changed on the way there: go on from that moment with what they show then.
            at = _change_of_clocks(zone, at, instant)
            offset = _offset(at, zone)
            start = at.replace(tzinfo=None) + offset - timedelta(seconds=1)
            break
        else:
            return


def _change_of_clocks(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first whole second with another offset than `before`, found by halving; `after` has another."""
    old = _offset(before, zone)
    same, other = 0, math.ceil((after - before).total_seconds())
    start = before.replace(microsecond=0)
    while other - same > 1:
        middle = (same + other) // 2
        if _offset(start + timedelta(seconds=middle), zone) == old:
            same = middle
        else:
            other = middle
    return start + timedelta(seconds=other)


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def _first_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a local time: the first of two, or the end of the gap it lies in."""
    at = local.replace(tzinfo=zone)
    while at.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
        local += timedelta(minutes=1)
        at = local.replace(tzinfo=zone)
    return at.astimezone(UTC)


@lru_cache(maxsize=1024)
def _names_every_hour(cron: str) -> bool:
    return CronSim(cron, datetime(2000, 1, 1)).hours == _ALL_HOURS


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            f"timezone {name[:60]!r} is not an IANA name, e.g. Europe/Berlin or UTC", field="timezone"
        ) from None


def _check_cron(timing: Timing) -> None:
    cron = timing.cron or ""
    if len(cron) > 200:
        raise InvalidRequest("cron text is over 200 characters", field="cron")
    if len(cron.split()) != 5:
        raise InvalidRequest(
            "cron text has five fields: minute, hour, day of month, month, day of week; e.g. `30 2 * * *`", field="cron"
        )
    try:
        CronSim(cron, timing.anchor_at)
    except (CronSimError, ValueError) as error:
        raise InvalidRequest(f"cron text cannot be read, or names no day that exists: {error}", field="cron") from None
    if following(timing, timing.anchor_at) is None:
        raise InvalidRequest("cron text names no day that exists: it would never fire", field="cron")
