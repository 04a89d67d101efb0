"""What the Python client and schedules may begin on whose behalf."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.access.keys.owners import FRESH_S, Owners
from core.access.keys.virtual_keys import VirtualKeys
from core.app import App
from core.errors import InvalidRequest, KeyRefused, ModelNotAllowed, StoreUnavailable, TypeNotAllowed
from core.task_types.chat_completion import ChatCompletion
from core.task_types.diagnostic import DiagnosticNoop as Noop
from core.task_types.spec import TaskInput
from tests.support.key_processes import Processes
from tests.support.waiting import wait_until


def chat(model: str) -> ChatCompletion:
    return ChatCompletion.model_validate({"model": model, "messages": [{"role": "user", "content": "x"}]})


@pytest.mark.parametrize("many", [False, True])
def test_a_producer_gets_no_task_that_its_key_may_not_have(shared: App, many: bool) -> None:
    new = shared.keys.create("n", allowed_types=["chat.*"], allowed_models=["gpt-4o*"])

    def send(input: TaskInput) -> object:
        if many:
            return shared.tasks.enqueue_many([input], owner=new.key_id)
        return shared.tasks.enqueue(input, owner=new.key_id)

    assert send(chat("gpt-4o-mini"))
    with pytest.raises(TypeNotAllowed):
        send(Noop())
    with pytest.raises(ModelNotAllowed):
        send(chat("gpt-5"))
    assert len(shared.tasks.list(owner=new.key_id).tasks) == 1


def test_a_key_that_is_disabled_expired_or_deleted_gets_no_new_tasks(shared: App) -> None:
    disabled, expiring, deleted = (shared.keys.create(name).key_id for name in ("a", "b", "c"))
    task_id = shared.tasks.enqueue(Noop(), owner=disabled).public_id
    shared.tasks.cancel(task_id)
    shared.keys.disable(disabled)
    shared.keys.update(expiring, expires_at=datetime.now(UTC) + timedelta(milliseconds=100))
    wait_until(lambda: shared.keys.get(expiring).has_expired(datetime.now(UTC)), what="it expires")
    shared.keys.delete(deleted)

    def refusal(act: Callable[[], object]) -> type | None:
        try:
            act()
        except InvalidRequest as error:
            return type(error)
        return None

    # The row that was read for the first task may be remembered for two seconds.
    wait_until(lambda: refusal(lambda: shared.tasks.enqueue(Noop(), owner=disabled)) is KeyRefused, FRESH_S + 3)
    assert refusal(lambda: shared.tasks.retry(task_id)) is KeyRefused
    assert refusal(lambda: shared.tasks.enqueue(Noop(), owner=expiring)) is KeyRefused
    assert refusal(lambda: shared.tasks.enqueue(Noop(), owner=deleted)) is InvalidRequest


def test_a_burst_reads_the_row_once_and_a_change_counts_after_two_seconds(
    keys: VirtualKeys, process: Processes
) -> None:
    now = 0.0
    one = process()
    owners = Owners(one.keys, clock=lambda: now)
    key_id = keys.create("n").key_id
    for _ in range(5):
        owners.check(key_id, "t", None)
    assert one.queries == 1

    keys.disable(key_id)
    now = FRESH_S
    with pytest.raises(KeyRefused):
        owners.check(key_id, "t", None)


def test_an_owner_that_cannot_be_read_is_not_refused(process: Processes) -> None:
    with pytest.raises(StoreUnavailable):
        Owners(process(has_database=False).keys).check("k" * 12, "t", None)
