"""What a person says of a schedule: given whole when it is made, changed field by field, kept in its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

import orjson

from core.errors import InvalidRequest
from core.schedules.model import Missed, Overlap, Timing
from core.schedules.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """
    What a person says of a schedule.

    Args:
        task: `{"type", "input", "queue", ...}`, see `task_template.py`.
        owner: public id of the virtual key whose tasks they are.
    """

    name: str
    owner: str
    task: Mapping[str, Any]
    cron: str | None = None
    every_s: float | None = None
    timezone: str = "UTC"
    jitter_s: float = 0.0
    missed: Missed = Missed.LATEST
    overlap: Overlap = Overlap.SKIP
    enabled: bool = True

    def timing(self, anchor_at: datetime) -> Timing:
        return Timing(
            name=self.name,
            anchor_at=anchor_at,
            cron=self.cron,
            every_s=self.every_s,
            timezone=self.timezone,
            jitter_s=self.jitter_s,
        )


_FIELDS = frozenset(field.name for field in fields(ScheduleSpec))


def columns_of(spec: ScheduleSpec, now: datetime) -> dict[str, Any]:
    """What it says, as columns of `schedules`."""
    return {
        "cron": spec.cron,
        "every_s": spec.every_s,
        "timezone": spec.timezone,
        "jitter_s": spec.jitter_s,
        "missed": spec.missed.value,
        "overlap": spec.overlap.value,
        "enabled": spec.enabled,
        "owner_id": spec.owner,
        "task": orjson.dumps(dict(spec.task)).decode(),
        "changed_at": now,
    }


def spec_of(row: Row) -> ScheduleSpec:
    """What was said of the schedule of this row."""
    return ScheduleSpec(
        name=row["name"],
        owner=row["owner_id"],
        task=orjson.loads(row["task"]),
        cron=row["cron"],
        every_s=row["every_s"],
        timezone=row["timezone"],
        jitter_s=row["jitter_s"],
        missed=Missed(row["missed"]),
        overlap=Overlap(row["overlap"]),
        enabled=row["enabled"],
    )


def changed(old: ScheduleSpec, changes: Mapping[str, Any]) -> ScheduleSpec:
    """
    Only what changes is named; giving `cron` drops `every_s` and the other way round.

    Raises:
        InvalidRequest: an unknown field, or the name.
    """
    values = dict(changes)
    for name in values:
        if name == "name" or name not in _FIELDS:
            raise InvalidRequest(f"{name[:60]}: not a field that can be changed", field=name[:60])
    for given, dropped in (("cron", "every_s"), ("every_s", "cron")):
        if values.get(given) is not None:
            values.setdefault(dropped, None)
    return replace(old, **values)
