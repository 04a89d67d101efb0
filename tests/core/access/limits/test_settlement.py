"""What the limits learn of tasks that became final."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access.limits.limits_of import Caller, Planned, ask_of_key
from core.access.limits.model import Ask, Slots, TokenBucket
from core.access.limits.settlement import used_tokens
from core.app import App
from core.events.access import Limits
from core.ids import KeyId, PublicId, new_task_id
from core.task_types.diagnostic import DiagnosticNoop
from core.tasks.model import Task, TaskState
from core.tasks.sweeper import Sweeper


def final(result: Any, state: TaskState = TaskState.COMPLETED) -> Task:
    now = datetime.now(UTC)
    return Task(
        id=new_task_id(),
        public_id=PublicId("task_1"),
        owner_id=KeyId("owner"),
        type="chat.completion",
        queue="default",
        priority=5,
        state=state,
        version=3,
        changed_at=now,
        attempt=1,
        max_attempts=3,
        created_at=now,
        run_at=now,
        result_json=None if result is None else orjson.dumps(result).decode(),
    )


@pytest.mark.parametrize(
    ("result", "state", "expected"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9}}, TaskState.COMPLETED, 9),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, TaskState.COMPLETED, 7),
        ({"usage": {"total_tokens": 0}}, TaskState.COMPLETED, 0),
        ({"usage": {"total_tokens": -5}}, TaskState.COMPLETED, None),
        ({"usage": {"total_tokens": "many"}}, TaskState.COMPLETED, None),
        ({"usage": {"total_tokens": True}}, TaskState.COMPLETED, None),
        ({"usage": None}, TaskState.COMPLETED, None),
        ({"text": 'he said "usage"'}, TaskState.COMPLETED, None),
        (["usage"], TaskState.COMPLETED, None),
        ({}, TaskState.COMPLETED, None),
        (None, TaskState.FAILED, 0),
        (None, TaskState.CANCELLED, 0),
        ({"usage": {"total_tokens": 5}}, TaskState.FAILED, 5),
    ],
)
def test_usage_is_read_from_the_result(result: Any, state: TaskState, expected: int | None) -> None:
    assert used_tokens(final(result, state)) == expected


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["usage", "total_tokens", "x"]), inner),
    max_leaves=8,
)


@given(result=_json)
def test_no_result_breaks_the_reading(result: Any) -> None:
    assert used_tokens(final(result)) is None or cast(int, used_tokens(final(result))) >= 0


def reserved(app: App, owner: KeyId, task_id: str) -> None:
    """What the door does before it accepts the task."""
    limits = Limits(tpm=1000, concurrency=1)
    ask = ask_of_key(
        app.access.limit_keys, Caller("/v1/tasks"), key_id=owner, limits=limits, tasks=[Planned(task_id, tokens=600)]
    )
    assert app.access.limiter.decide(ask).allowed


def free(app: App, owner: KeyId) -> tuple[int, int]:
    """Tokens and slots that are free, without taking any."""
    tokens = TokenBucket(app.access.limit_keys.tokens(owner), 1000, 0)
    decision = app.access.limiter.decide(Ask((), tokens, Slots(app.access.limit_keys.concurrency(owner), 1, ())))
    return decision.states[0].remaining, decision.states[1].remaining


def test_a_cancelled_task_gives_its_tokens_and_its_slot_back(app: App) -> None:
    owner = app.keys.create(name="limited").key_id
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    reserved(app, owner, task.public_id)
    assert free(app, owner)[1] == 0

    app.tasks.cancel(task.public_id)

    assert free(app, owner) == (1000, 1)


def test_a_task_that_times_out_gives_them_back_as_well(app: App) -> None:
    owner = app.keys.create(name="limited").key_id
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    reserved(app, owner, task.public_id)
    with app.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tasks SET deadline_at = now() - interval '1 second'")

    assert Sweeper(app.engine, app.copies, app.bells, lease_s=30.0).sweep().expired

    assert free(app, owner) == (1000, 1)
