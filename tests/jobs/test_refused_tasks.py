"""A scheduler process knows what models can do before it enqueues."""

from __future__ import annotations

from core.app import App
from core.capabilities.model import Ability, Answer
from core.providers.model import NewProvider
from core.schedules.model import RunOutcome
from core.schedules.spec import ScheduleSpec
from tests.support.schedulers import Jobs, running_scheduler
from tests.support.waiting import wait_until


def test_a_task_its_model_cannot_do_is_a_failed_run_and_the_others_are_enqueued(app: App, jobs: Jobs) -> None:
    owner = app.keys.create(name="schedules").key_id
    app.providers.add(NewProvider(name="acme", base_url="http://127.0.0.1:9/v1"))
    for model in ("can", "cannot"):
        chat = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        task = {"type": "chat.completion", "input": chat}
        app.schedules.create(ScheduleSpec(name=model, owner=owner, task=task, every_s=3600))
        app.schedules.run_now(model)
    app.capability_overrides.set("cannot", Ability.CHAT, Answer.NO)

    with running_scheduler(app, jobs):
        wait_until(lambda: all(app.schedules.get(name).runs for name in ("can", "cannot")), 20, what="both runs")

    assert app.schedules.history("can").runs[0].outcome is RunOutcome.ENQUEUED
    [refused] = app.schedules.history("cannot").runs
    assert refused.outcome is RunOutcome.FAILED
    assert "cannot cannot do chat: the operator said so" in (refused.reason or "")
