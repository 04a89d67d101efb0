"""A worker that finishes a task ends its lease and settles its tokens by what the provider really counted."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from pydantic import SecretStr

from core.access.limits.limits_of import Caller, Planned, ask_of_key
from core.access.limits.model import Ask, Slots, TokenBucket
from core.app import App, open_app
from core.events.access import Limits
from core.ids import KeyId
from core.settings import Settings
from core.task_types.chat_completion import ChatCompletion
from core.task_types.diagnostic import DiagnosticFail
from core.task_types.spec import TaskInput
from core.testing import FakeProvider
from tests.support.waiting import wait_until
from tests.workers.conftest import StartWorker

LIMITS = Limits(tpm=100_000, concurrency=2)


@pytest.fixture
def app(settings: Settings) -> Generator[App]:
    with FakeProvider(latency_s=0.01) as provider:
        update = {"provider_url": provider.url, "provider_api_key": SecretStr("sk-test"), "heartbeat_s": 1.0}
        with open_app(settings.model_copy(update=update)) as opened:
            yield opened


def accepted(app: App, owner: KeyId, given: TaskInput, tokens: int) -> str:
    """As the door will do it; the task is accepted first here, because the client picks the id."""
    task = app.tasks.enqueue(given, owner=owner)
    tasks = [Planned(task.public_id, tokens)]
    ask = ask_of_key(app.access.limit_keys, Caller("/v1/tasks"), key_id=owner, limits=LIMITS, tasks=tasks)
    assert app.access.limiter.decide(ask).allowed
    return task.public_id


def free(app: App, owner: KeyId) -> tuple[int, int]:
    """Tokens and slots that are free, without taking any."""
    tokens = TokenBucket(app.access.limit_keys.tokens(owner), 100_000, 0)
    decision = app.access.limiter.decide(Ask((), tokens, Slots(app.access.limit_keys.concurrency(owner), 2, ())))
    return decision.states[0].remaining, decision.states[1].remaining


def test_a_finished_task_ends_its_lease_and_settles_its_tokens(app: App, start_worker: StartWorker) -> None:
    owner = app.keys.create(name="limited").key_id
    chat = ChatCompletion(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
    public_id = accepted(app, owner, chat, tokens=90_000)
    before, slots = free(app, owner)
    assert slots == 1

    start_worker()
    usage = app.tasks.wait(public_id)["result"]["usage"]

    assert 0 < usage["total_tokens"] < 1000
    wait_until(lambda: free(app, owner)[1] == 2, 5, what="the lease ended")
    after = wait_until(lambda: left if (left := free(app, owner)[0]) > 95_000 else 0, 5, what="the tokens came back")
    assert after > before + 80_000


def test_a_failed_task_gives_everything_back(app: App, start_worker: StartWorker) -> None:
    owner = app.keys.create(name="limited").key_id
    public_id = accepted(app, owner, DiagnosticFail(retryable=False), tokens=90_000)

    start_worker()

    assert app.tasks.wait(public_id)["state"] == "failed"
    wait_until(lambda: free(app, owner) == (100_000, 2), 5, what="tokens and slot came back")
