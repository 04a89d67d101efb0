"""What people do with schedules; what is refused is told over HTTP in tests/web/test_admin_schedules.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.app import App
from core.errors import InvalidRequest, ScheduleChanged, ScheduleExists, ScheduleNotFound
from core.schedules.firing import Firing
from core.schedules.model import Missed, Overlap, ScheduleKind
from core.schedules.spec import ScheduleSpec
from tests.core.schedules.conftest import NOOP, Make, finish_tasks, let_pass
from tests.support.worker_processes import query


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Big"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"cron": "0 0 31 2 *", "every_s": None}, "cron"),
        ({"cron": "* * * * *"}, "cron"),
        ({"every_s": None}, "cron"),
        ({"every_s": 0.2}, "every_s"),
        ({"timezone": "Nowhere"}, "timezone"),
        ({"owner": "nobody"}, "owner"),
        ({"task": {"type": "no.such", "input": {}}}, "task.type"),
        ({"task": {"type": "chat.completion", "input": {"model": "m"}}}, "task.input.messages"),
        ({"task": {**NOOP, "queue": "nowhere"}}, "task.queue"),
        ({"task": {**NOOP, "priority": 10}}, "task.priority"),
        ({"task": {**NOOP, "deadline_s": 1e300}}, "task.deadline_s"),
        ({"task": {**NOOP, "typo": 1}}, "task.typo"),
        ({"task": {"type": "diagnostic.noop", "input": {"payload": "\x00"}}}, "task.input.payload"),
    ],
)
def test_what_can_never_work_is_refused_with_its_field(
    app: App, owner: str, changes: dict[str, Any], field: str
) -> None:
    values: dict[str, Any] = {"name": "nightly", "owner": owner, "task": NOOP, "every_s": 60.0, **changes}

    with pytest.raises(InvalidRequest) as refused:
        app.schedules.create(ScheduleSpec(**values))

    assert refused.value.field == field
    assert query(app, "SELECT count(*) FROM schedules")[0][0] == 0


def test_a_name_is_taken_once_and_jobs_have_names_of_their_own(app: App, make: Make) -> None:
    make("nightly")

    with pytest.raises(ScheduleExists):
        make("nightly")
    with pytest.raises(ScheduleNotFound):
        app.schedules.get("nightly", ScheduleKind.JOB)
    with pytest.raises(ScheduleNotFound):
        app.schedules.get("night\x00ly")


def test_a_preview_saves_nothing_and_shows_what_will_be(app: App, owner: str) -> None:
    spec = ScheduleSpec(name="nightly", owner=owner, task=NOOP, cron="0 2 * * *", timezone="Europe/Berlin")

    shown = app.schedules.preview(spec)

    assert query(app, "SELECT count(*) FROM schedules")[0][0] == 0
    assert len(shown) == 10
    assert app.schedules.fires(app.schedules.create(spec)) == shown


def test_a_change_of_the_timing_counts_from_now(app: App, make: Make) -> None:
    before = make("nightly", cron="0 2 * * *")

    after = app.schedules.update("nightly", {"every_s": 90.0, "missed": Missed.SKIP})

    assert (after.timing.cron, after.timing.every_s, after.missed) == (None, 90.0, Missed.SKIP)
    assert after.version == before.version + 1
    now = query(app, "SELECT now()")[0][0]
    assert after.next_due is not None
    assert now < after.next_due <= now + timedelta(seconds=90)


def test_a_change_of_something_else_leaves_the_due_times_alone(app: App, make: Make) -> None:
    schedule = make("nightly")
    let_pass(app, schedule, 3)
    due = app.schedules.get("nightly").next_due

    after = app.schedules.update("nightly", {"overlap": Overlap.QUEUE})

    assert after.next_due == due
    assert after.overlap is Overlap.QUEUE


def test_a_change_of_what_was_changed_meanwhile_is_refused(app: App, make: Make) -> None:
    make("nightly")
    app.schedules.update("nightly", {"jitter_s": 5.0}, version=1)

    with pytest.raises(ScheduleChanged):
        app.schedules.update("nightly", {"jitter_s": 6.0}, version=1)
    with pytest.raises(InvalidRequest):
        app.schedules.update("nightly", {"name": "other"})
    with pytest.raises(InvalidRequest):
        app.schedules.update("nightly", {"cron": "* * *"})


def test_lists_and_histories_are_paged_by_key(app: App, make: Make, firing: Firing) -> None:
    for name in ("c", "a", "b"):
        make(name)
    first = app.schedules.list(limit=2)
    assert [schedule.name for schedule in first.schedules] == ["a", "b"]
    assert [s.name for s in app.schedules.list(limit=2, cursor=first.next_cursor).schedules] == ["c"]

    schedule = app.schedules.get("a")
    for _ in range(5):
        let_pass(app, schedule, 1)
        firing.fire()
        finish_tasks(app)
    seen = []
    cursor = None
    while True:
        page = app.schedules.history("a", limit=2, cursor=cursor)
        seen += [run.due_at for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)
    assert app.schedules.get("a").last_run is not None
    with pytest.raises(InvalidRequest):
        app.schedules.history("a", cursor="nonsense")


def test_a_deleted_schedule_takes_its_history_along_and_leaves_its_tasks(app: App, make: Make, firing: Firing) -> None:
    let_pass(app, make("nightly"), 1)
    firing.fire()

    app.schedules.delete("nightly")

    with pytest.raises(ScheduleNotFound):
        app.schedules.get("nightly")
    assert query(app, "SELECT count(*) FROM schedule_runs")[0][0] == 0
    assert query(app, "SELECT count(*) FROM tasks")[0][0] == 1
