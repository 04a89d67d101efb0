"""Due times become runs exactly once, on real rows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from core.app import App
from core.schedules.firing import Firing
from core.schedules.model import Missed, Overlap, Run, RunOutcome, ScheduleKind
from tests.core.schedules.conftest import Make, finish_tasks, let_pass, new_firing
from tests.support.worker_processes import query


def runs_of(app: App, name: str) -> list[Run]:
    """Oldest first."""
    return app.schedules.history(name, limit=200).runs[::-1]


def test_a_due_schedule_enqueues_its_task_and_says_so(app: App, make: Make, firing: Firing) -> None:
    schedule = make("nightly", task={"type": "diagnostic.noop", "input": {}, "priority": 7, "metadata": {"a": 1}})
    let_pass(app, schedule, 1)

    assert firing.look().is_due
    assert firing.fire() == 1

    [run] = runs_of(app, "nightly")
    assert run.outcome is RunOutcome.ENQUEUED
    assert run.task_state == "pending"
    assert run.lateness_s == pytest.approx(1.0, abs=0.5)
    task = app.tasks.get(run.task_id or "", owner=schedule.owner_id)
    assert (task["priority"], task["metadata"], task["type"]) == (7, {"a": 1}, "diagnostic.noop")
    after = app.schedules.get("nightly")
    assert after.last_due == run.due_at
    assert after.next_due is not None
    assert (after.next_due - run.due_at).total_seconds() == 60
    assert not firing.look().is_due


def test_twelve_schedulers_at_once_fire_each_due_time_once(app: App, make: Make) -> None:
    names = [f"s{n}" for n in range(30)]
    for name in names:
        let_pass(app, make(name, missed=Missed.ALL), 3)
    barrier = threading.Barrier(12)

    def fire() -> None:
        one = new_firing(app)
        barrier.wait()
        for _ in range(3):
            one.fire()

    in_threads([fire] * 12)

    for name in names:
        runs = runs_of(app, name)
        assert len({run.due_at for run in runs}) == len(runs) == 3
        # Of a burst one starts, and the others wait for it.
        assert [run.outcome for run in runs] == [RunOutcome.ENQUEUED, RunOutcome.WAITING, RunOutcome.WAITING]
    assert query(app, "SELECT count(*) FROM tasks")[0][0] == 30


def test_a_fire_that_is_not_committed_is_fired_by_another(app: App, make: Make, firing: Firing) -> None:
    let_pass(app, make("nightly"), 1)
    with app.engine.begin() as stopped:
        stopped.exec_driver_sql("SELECT * FROM schedules FOR UPDATE")

        assert firing.fire() == 0

    assert firing.fire() == 1


@pytest.mark.parametrize(
    ("missed", "late_s", "fired"),
    [
        (Missed.SKIP, 1.0, 1),
        (Missed.SKIP, 31.0, 0),
        (Missed.LATEST, 31.0, 1),
    ],
)
def test_missed_due_times_are_one_recorded_range(
    app: App, make: Make, missed: Missed, late_s: float, fired: int
) -> None:
    skipped = 4 - fired
    let_pass(app, make("nightly", missed=missed), 4, late_s=late_s)

    new_firing(app).fire()

    runs = runs_of(app, "nightly")
    gap = runs[0]
    assert gap.outcome is RunOutcome.SKIPPED
    assert gap.due_times == skipped
    assert gap.until_at is not None
    assert (gap.until_at - gap.due_at).total_seconds() == 60 * (skipped - 1)
    assert [run.outcome for run in runs[1:]] == [RunOutcome.ENQUEUED] * fired
    assert app.schedules.get("nightly").skips == skipped


def test_a_due_time_while_the_last_task_goes_on_is_skipped_with_the_reason(
    app: App, make: Make, firing: Firing
) -> None:
    schedule = make("nightly", overlap=Overlap.SKIP)
    let_pass(app, schedule, 1)
    firing.fire()
    let_pass(app, schedule, 1)
    firing.fire()

    [_, second] = runs_of(app, "nightly")
    assert second.outcome is RunOutcome.SKIPPED
    assert second.reason == "the run before it goes on"

    finish_tasks(app)
    let_pass(app, schedule, 1)
    firing.fire()
    assert runs_of(app, "nightly")[-1].outcome is RunOutcome.ENQUEUED


def test_with_queue_one_run_waits_for_the_last_task_and_further_ones_are_skipped(
    app: App, make: Make, firing: Firing
) -> None:
    schedule = make("nightly", overlap=Overlap.QUEUE)
    for _ in range(3):
        let_pass(app, schedule, 1)
        firing.fire()
    assert [run.outcome for run in runs_of(app, "nightly")] == [
        RunOutcome.ENQUEUED,
        RunOutcome.WAITING,
        RunOutcome.SKIPPED,
    ]

    assert firing.enqueue_waiting() == 0
    finish_tasks(app)
    assert firing.enqueue_waiting() == 1

    second = runs_of(app, "nightly")[1]
    assert second.outcome is RunOutcome.ENQUEUED
    assert second.task_state == "pending"


def test_a_frequent_schedule_keeps_its_last_runs_on_its_own_row(app: App, make: Make, firing: Firing) -> None:
    schedule = make("often", every_s=5.0)
    for _ in range(25):
        let_pass(app, schedule, 1)
        firing.fire()
        finish_tasks(app)

    assert query(app, "SELECT count(*) FROM schedule_runs")[0][0] == 0
    runs = runs_of(app, "often")
    assert len(runs) == 20
    assert {run.outcome for run in runs} == {RunOutcome.ENQUEUED}
    assert all(run.task_state == "completed" for run in runs)
    assert app.schedules.get("often").runs == 25


def test_a_disabled_owner_gets_no_tasks(app: App, make: Make, owner: str, firing: Firing) -> None:
    let_pass(app, make("nightly"), 1)
    app.keys.disable(owner)

    firing.fire()

    [run] = runs_of(app, "nightly")
    assert run.outcome is RunOutcome.FAILED
    assert run.reason == "the owner's key is disabled"
    assert query(app, "SELECT count(*) FROM tasks")[0][0] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("deleted_at = now()", "the owner's key is deleted"),
        ("expires_at = now()", "the owner's key has expired"),
        ("allowed_types = '{chat.*}'", "type: this key may not use 'diagnostic.noop'"),
        ("allowed_models = '{gpt-*}'", "input.model: this key may not use 'm'"),
    ],
)
def test_an_owner_that_may_not_have_the_task_gets_none_and_the_run_says_why(
    app: App, make: Make, owner: str, change: str, reason: str
) -> None:
    firing = new_firing(app)
    chat = {"type": "chat.completion", "input": {"model": "m", "messages": [{"role": "user", "content": "x"}]}}
    let_pass(app, make("nightly", task=chat) if "models" in change else make("nightly"), 1)
    with app.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE virtual_keys SET {change} WHERE key_id = :id"), {"id": owner})

    firing.fire()

    [run] = runs_of(app, "nightly")
    assert run.outcome is RunOutcome.FAILED
    assert reason in (run.reason or "")
    assert query(app, "SELECT count(*) FROM tasks")[0][0] == 0


def test_a_schedule_that_cannot_be_fired_is_disabled_and_the_others_are_fired(
    app: App, make: Make, firing: Firing
) -> None:
    for name in ("a", "b", "c"):
        let_pass(app, make(name), 1)
    due_at = app.schedules.get("b").next_due
    with app.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE schedules SET timezone = 'Atlantis/Gone', cron = '* * * * *', every_s = NULL WHERE name = 'b'"
            )
        )

    firing.fire()

    assert [runs_of(app, name)[0].outcome for name in ("a", "c")] == [RunOutcome.ENQUEUED] * 2
    broken = app.schedules.get("b")
    assert not broken.enabled
    assert broken.disabled_reason is not None
    assert "Atlantis/Gone" in broken.disabled_reason
    [run] = runs_of(app, "b")
    assert (run.due_at, run.outcome, run.reason) == (due_at, RunOutcome.FAILED, broken.disabled_reason)
    assert (broken.runs, broken.failures, broken.last_due) == (1, 1, due_at)


def test_a_task_type_that_is_gone_fails_the_run_with_the_reason(app: App, make: Make, firing: Firing) -> None:
    let_pass(app, make("nightly"), 1)
    with app.engine.begin() as connection:
        connection.execute(sa.text("""UPDATE schedules SET task = '{"type": "gone.type", "input": {}}'"""))

    firing.fire()

    [run] = runs_of(app, "nightly")
    assert run.outcome is RunOutcome.FAILED
    assert "gone.type" in (run.reason or "")


def test_a_paused_schedule_is_not_fired_and_what_passed_meanwhile_is_not_missed(
    app: App, make: Make, firing: Firing
) -> None:
    schedule = make("nightly", missed=Missed.ALL)
    app.schedules.pause("nightly")
    let_pass(app, schedule, 5)

    assert firing.fire() == 0
    resumed = app.schedules.resume("nightly")

    assert firing.fire() == 0
    assert resumed.next_due is not None
    assert resumed.next_due > query(app, "SELECT now()")[0][0]
    assert runs_of(app, "nightly") == []


def test_a_run_asked_for_is_enqueued_also_while_paused(app: App, make: Make, firing: Firing) -> None:
    make("nightly")
    app.schedules.pause("nightly")

    asked = app.schedules.run_now("nightly")
    assert app.schedules.run_now("nightly").id == asked.id
    assert firing.look().has_waiting
    firing.enqueue_waiting()

    [run] = runs_of(app, "nightly")
    assert run.outcome is RunOutcome.ENQUEUED
    assert run.reason == "asked for by a person"


def test_a_job_of_another_scheduler_is_left_to_it(app: App, firing: Firing, make: Make) -> None:
    let_pass(app, make("elsewhere"), 1)
    with app.engine.begin() as connection:
        connection.execute(sa.text("UPDATE schedules SET kind = 'job', owner_id = NULL, task = NULL"))

    assert firing.fire() == 0
    assert new_firing(app, "elsewhere").fire() == 1

    [run] = app.schedules.history("elsewhere", ScheduleKind.JOB).runs
    assert run.outcome is RunOutcome.WAITING


def in_threads(calls: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
