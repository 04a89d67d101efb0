"""A schedule's task is held against what its model is known to do: when it is saved, and again at each fire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.app import App, open_app
from core.capabilities.directory import ModelCannot
from core.capabilities.model import Ability, Answer
from core.providers.model import NewProvider
from core.schedules.firing import Firing
from core.schedules.model import RunOutcome
from core.schedules.spec import ScheduleSpec
from tests.core.schedules.conftest import Make, let_pass
from tests.support.worker_processes import query

CHAT: dict[str, Any] = {
    "type": "chat.completion",
    "input": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.fixture
def provider(app: App) -> str:
    """Serves everything that nobody says it cannot; nobody calls it."""
    return app.providers.add(NewProvider(name="acme", base_url="http://127.0.0.1:9/v1")).name


def say(app: App, answer: Answer) -> None:
    app.capability_overrides.set("m", Ability.CHAT, answer)
    app.capabilities.refresh()


def test_a_task_its_model_cannot_do_is_not_saved(app: App, provider: str, owner: str) -> None:
    say(app, Answer.NO)
    spec = ScheduleSpec(name="nightly", owner=owner, task=CHAT, cron="30 2 * * *")

    # As a command: a process that has read nothing yet.
    with open_app(app.settings) as fresh, pytest.raises(ModelCannot, match="m cannot do chat") as refused:
        fresh.schedules.create(spec)

    assert refused.value.field == "task.input.model"
    assert app.schedules.list().schedules == []


def test_a_changed_task_is_held_against_its_model_and_one_that_stays_is_not(
    app: App, provider: str, make: Make
) -> None:
    make("nightly", task=CHAT)
    say(app, Answer.NO)

    with pytest.raises(ModelCannot):
        app.schedules.update("nightly", {"task": {**CHAT, "priority": 7}})
    paused = app.schedules.update("nightly", {"enabled": False})

    assert not paused.enabled
    assert paused.task == CHAT


def test_a_model_found_unable_since_it_was_saved_fails_the_run_with_the_reason(
    app: App, provider: str, make: Make, firing: Firing
) -> None:
    schedule = make("nightly", task=CHAT)
    say(app, Answer.NO)
    let_pass(app, schedule, 1)

    assert firing.look().has_tasks
    firing.fire()

    [run] = app.schedules.history("nightly").runs
    assert run.outcome is RunOutcome.FAILED
    assert run.reason is not None
    assert run.reason.startswith("the task was refused: input.model: m cannot do chat: the operator said so")
    after = app.schedules.get("nightly")
    assert (after.runs, after.failures, after.enabled, after.last_due) == (1, 1, True, run.due_at)
    assert query(app, "SELECT count(*) FROM tasks WHERE type = 'chat.completion'")[0][0] == 0

    say(app, Answer.UNKNOWN)
    let_pass(app, replace(schedule, next_due=after.next_due), 1)
    firing.fire()

    assert app.schedules.history("nightly").runs[0].outcome is RunOutcome.ENQUEUED


def test_jobs_alone_are_no_reason_to_read_what_models_can_do(app: App, make: Make, firing: Firing) -> None:
    let_pass(app, make("elsewhere"), 1)
    with app.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE schedules SET kind = 'job', owner_id = NULL, task = NULL")

    look = firing.look()

    assert look.is_due
    assert not look.has_tasks
