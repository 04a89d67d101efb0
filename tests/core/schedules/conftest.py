"""Schedules whose due times have passed, and the firing of one scheduler."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.app import App
from core.schedules.due import fire_time
from core.schedules.firing import Firing
from core.schedules.model import Schedule
from core.schedules.spec import ScheduleSpec
from tests.support.worker_processes import query

NOOP: dict[str, Any] = {"type": "diagnostic.noop", "input": {}}
Make = Callable[..., Schedule]


@pytest.fixture
def owner(app: App) -> str:
    return app.keys.create(name="schedules").key_id


@pytest.fixture
def make(app: App, owner: str) -> Make:
    """Create a schedule: `make("nightly", every_s=60.0, ...)`, every minute unless said otherwise."""

    def create(name: str, **fields: Any) -> Schedule:
        if "cron" not in fields:
            fields.setdefault("every_s", 60.0)
        return app.schedules.create(ScheduleSpec(name=name, **{"owner": owner, "task": NOOP, **fields}))

    return create


@pytest.fixture
def firing(app: App) -> Firing:
    return new_firing(app)


def new_firing(app: App, *jobs: str) -> Firing:
    return Firing(app.engine, types=app.types, jobs=jobs, check_model=app.capabilities.check, ring=app.bells.ring)


def let_pass(app: App, schedule: Schedule, periods: int, *, late_s: float = 1.0) -> None:
    """As if the last `periods` due times had passed unfired, the newest of them `late_s` ago."""
    assert schedule.next_due is not None
    assert schedule.timing.every_s is not None
    now = query(app, "SELECT now()")[0][0]
    # The anchor moves with it: due times stay whole periods from it.
    anchor = now - timedelta(seconds=late_s) - schedule.timing.every_s * timedelta(seconds=periods)
    next_due = anchor + timedelta(seconds=schedule.timing.every_s)
    with app.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE schedules SET anchor_at = :anchor, next_due = :due, fire_at = :fire WHERE id = :id"),
            {"anchor": anchor, "due": next_due, "fire": fire_time(schedule.timing, next_due), "id": schedule.id},
        )


def finish_tasks(app: App) -> None:
    """As workers would: every task is completed."""
    with app.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE tasks SET state = 'processing', version = version + 1 WHERE state = 'pending'"
        )
        connection.exec_driver_sql(
            "UPDATE tasks SET state = 'completed', version = version + 1, finished_at = now(), ready = false"
            " WHERE finished_at IS NULL"
        )
