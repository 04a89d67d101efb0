"""
When a cron text is due, found by looking at every minute: slow, and nothing of it is shared with the code under test.

It knows numbers, lists, ranges, steps and `*`. It only ever turns UTC into local time, never the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


@dataclass(frozen=True)
class Days:
    """Some days of a zone, minute by minute."""

    zone: str
    minutes: list[tuple[datetime, datetime]] = field(repr=False)
    """(UTC, local without zone), in the order of UTC."""

    @classmethod
    def around(cls, zone: str, middle: datetime, days: int = 2) -> Days:
        start = middle.replace(tzinfo=UTC) - timedelta(days=days)
        instants = [start + n * MINUTE for n in range(2 * days * 24 * 60)]
        return cls(zone, [(at, at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for at in instants])


def due_times(cron: str, days: Days) -> list[datetime]:
    """All due times in these days but those of the first one, aware UTC."""
    fields = [parsed(text, *bounds) for text, bounds in zip(cron.split(), BOUNDS, strict=True)]
    if fields[1] == set(range(24)):
        return [at for at, local in days.minutes if matches(cron, fields, local)]
    found: set[datetime] = set()
    clock, last = days.minutes[0][1], days.minutes[-1][1]
    while clock <= last:
        if matches(cron, fields, clock):
            shown = [at for at, local in days.minutes if local == clock]
            # A local time no clock showed: when the clocks first showed a later one.
            found.add(shown[0] if shown else min(at for at, local in days.minutes if local > clock))
        clock += MINUTE
    return sorted(found)


def matches(cron: str, fields: list[set[int]], local: datetime) -> bool:
    minute, hour, day, month, weekday = fields
    on_day = local.day in day
    on_weekday = local.isoweekday() in weekday or local.isoweekday() % 7 in weekday
    _, _, day_text, _, weekday_text = cron.split()
    # Debian's cron: a field that begins with a star restricts nothing by itself.
    both = day_text.startswith("*") or weekday_text.startswith("*")
    right_day = (on_day and on_weekday) if both else (on_day or on_weekday)
    return local.minute in minute and local.hour in hour and local.month in month and right_day


def parsed(text: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            first, last = low, high
        elif "-" in span:
            first, last = (int(word) for word in span.split("-"))
        else:
            first = int(span)
            last = high if step else first
        values |= set(range(first, last + 1, int(step or 1)))
    return values
