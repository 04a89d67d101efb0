from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.app import App
from core.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    StoreUnavailable,
    TaskIsFinal,
    TaskNotFound,
    TaskNotRetryable,
    UnknownQueue,
)
from core.ids import KeyId, WorkerId
from core.task_types.diagnostic import DiagnosticNoop, DiagnosticSleep
from core.tasks import queues, store
from core.tasks.accept import Idempotency
from core.tasks.model import Outcome, TaskError, TaskState
from core.tasks.store import Finish
from core.tasks.validation import MAX_DEPTH, canonical
from tests.core.tasks.conftest import new_task
from tests.support.waiting import wait_until


def test_a_task_is_in_the_database_when_enqueue_returns(app: App, connection: sa.Connection, owner: KeyId) -> None:
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner, metadata={"order": 7})

    assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 1
    assert app.tasks.get(task.public_id)["metadata"] == {"order": 7}
    assert app.tasks.get(task.public_id)["state"] == "pending"


def test_many_tasks_come_back_in_order_and_all_in_one_transaction(
    app: App, connection: sa.Connection, owner: KeyId
) -> None:
    inputs = [DiagnosticSleep(seconds=n / 1000) for n in range(2500)]

    tasks = app.tasks.enqueue_many(inputs, owner=owner)

    stored = connection.exec_driver_sql("SELECT public_id FROM tasks ORDER BY rank, id").scalars().all()
    assert list(stored) == [task.public_id for task in tasks]
    xmins = connection.exec_driver_sql("SELECT count(DISTINCT xmin::text) FROM tasks").scalar_one()
    assert xmins == 1


def test_unknown_queue_and_unknown_owner_are_told_and_store_nothing(
    app: App, connection: sa.Connection, owner: KeyId
) -> None:
    with pytest.raises(UnknownQueue, match="there are: default"):
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, queue="nope")
    with pytest.raises(InvalidRequest, match="no virtual key"):
        app.tasks.enqueue(DiagnosticNoop(), owner="nobody")
    assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 0


def test_a_queue_that_a_worker_brings_is_known_at_once(app: App, connection: sa.Connection, owner: KeyId) -> None:
    with pytest.raises(UnknownQueue):
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, queue="media")
    queues.add(connection, ["media"])

    assert app.tasks.enqueue(DiagnosticNoop(), owner=owner, queue="media").queue == "media"


def test_an_idempotency_key_gives_the_first_task_again(app: App, connection: sa.Connection, owner: KeyId) -> None:
    first = app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="k")
    again = app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="k")

    assert again.public_id == first.public_id
    assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 1


def test_an_idempotency_key_with_another_body_is_a_conflict(app: App, owner: KeyId) -> None:
    app.tasks.enqueue(DiagnosticSleep(seconds=1), owner=owner, idempotency_key="k")
    with pytest.raises(IdempotencyMismatch):
        app.tasks.enqueue(DiagnosticSleep(seconds=2), owner=owner, idempotency_key="k")


def test_idempotency_keys_of_two_owners_do_not_meet(app: App, owner: KeyId) -> None:
    other = app.keys.create("other").key_id
    first = app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="k")
    second = app.tasks.enqueue(DiagnosticNoop(), owner=other, idempotency_key="k")
    assert first.public_id != second.public_id


def test_an_idempotency_key_is_forgotten_after_a_day(app: App, connection: sa.Connection, owner: KeyId) -> None:
    first = app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="k")
    connection.exec_driver_sql("UPDATE idempotency_keys SET created_at = created_at - interval '24 hours 1 second'")
    assert app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="k").public_id != first.public_id


def test_forty_threads_with_one_idempotency_key_make_one_task(
    app: App, connection: sa.Connection, owner: KeyId
) -> None:
    for round_number in range(5):
        barrier = threading.Barrier(40)

        def enqueue(key: str, barrier: threading.Barrier = barrier) -> str:
            barrier.wait(10)
            return app.tasks.accept([new_task(owner)], Idempotency.of(key, b"same")).tasks[0].public_id

        with ThreadPoolExecutor(40) as pool:
            ids = set(pool.map(enqueue, [f"key-{round_number}"] * 40))

        assert len(ids) == 1
    assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 5


def test_a_task_enqueued_in_a_session_is_there_only_after_its_commit(
    app: App, connection: sa.Connection, owner: KeyId
) -> None:
    with Session(app.engine) as session:
        task = app.tasks.enqueue(DiagnosticNoop(), owner=owner, session=session)
        assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 0
        session.commit()
    assert app.tasks.get(task.public_id)["state"] == "pending"


def test_a_session_that_rolls_back_leaves_no_task(app: App, connection: sa.Connection, owner: KeyId) -> None:
    with Session(app.engine) as session:
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, session=session)
        session.rollback()
    assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 0


def test_another_owners_task_is_not_found_on_every_verb(app: App, owner: KeyId) -> None:
    other = app.keys.create("other").key_id
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    app.tasks.get(task.public_id, owner=owner)

    for call in (app.tasks.get, app.tasks.cancel, app.tasks.retry):
        with pytest.raises(TaskNotFound):
            call(task.public_id, owner=other)
    assert app.tasks.list(owner=other).tasks == []


def test_pages_cover_every_task_once_newest_first(app: App, owner: KeyId) -> None:
    made = app.tasks.enqueue_many([DiagnosticNoop()] * 25, owner=owner)
    seen: list[str] = []
    cursor = None
    while True:
        page = app.tasks.list(owner=owner, limit=10, cursor=cursor)
        seen.extend(task.public_id for task in page.tasks)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [task.public_id for task in reversed(made)]


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "a" * 400, "é"])
def test_a_bad_cursor_is_told(app: App, owner: KeyId, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        app.tasks.list(owner=owner, cursor=cursor)


def test_a_failed_task_is_retried_as_a_new_one_linked_to_it(
    app: App, connection: sa.Connection, owner: KeyId, worker: WorkerId
) -> None:
    old = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    with pytest.raises(TaskNotRetryable):
        app.tasks.retry(old.public_id)
    (claimed,) = store.claim(connection, "default", ["diagnostic.noop"], limit=1, worker=worker).tasks
    failed = Outcome(state=TaskState.FAILED, error=TaskError("x", "y"))
    store.finish(connection, [Finish(claimed, failed)])

    new = app.tasks.retry(old.public_id, owner=owner)

    assert new.retry_of == old.public_id
    assert app.tasks.get(new.public_id)["state"] == "pending"
    assert app.tasks.get(old.public_id)["state"] == "failed"


def test_a_cancelled_task_is_shown_so_at_once_and_cancelling_again_is_the_same(app: App, owner: KeyId) -> None:
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    app.tasks.get(task.public_id)

    assert app.tasks.cancel(task.public_id, owner=owner).took_effect
    assert app.tasks.get(task.public_id)["state"] == "cancelled"
    assert app.tasks.cancel(task.public_id, owner=owner).took_effect


def test_cancelling_a_completed_task_is_refused(
    app: App, connection: sa.Connection, owner: KeyId, worker: WorkerId
) -> None:
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    (claimed,) = store.claim(connection, "default", ["diagnostic.noop"], limit=1, worker=worker).tasks
    store.finish(connection, [Finish(claimed, Outcome(state=TaskState.COMPLETED, result_json="1"))])
    with pytest.raises(TaskIsFinal):
        app.tasks.cancel(task.public_id)


def test_wait_returns_the_task_as_it_is_when_time_is_up(app: App, owner: KeyId) -> None:
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    assert app.tasks.wait(task.public_id, timeout=timedelta(milliseconds=50))["state"] == "pending"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"deadline": timedelta(0)}, "deadline_s"),
        ({"metadata": {"a": "\x00"}}, "metadata.a"),
        ({"metadata": {"a": ["\ud800"]}}, "metadata.a[0]"),
        ({"metadata": {"a": float("nan")}}, "metadata.a"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"idempotency_key": ""}, "Idempotency-Key"),
        ({"idempotency_key": "é"}, "Idempotency-Key"),
    ],
)
def test_an_option_out_of_bounds_is_told_by_its_field(
    app: App, owner: KeyId, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as told:
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, **changes)  # type: ignore[arg-type]  # that is the point
    assert told.value.field == field


@pytest.mark.parametrize("value", [object(), {1: 2}, 10**30, b"bytes"])
def test_what_is_not_json_is_told(value: object) -> None:
    with pytest.raises(InvalidRequest, match="not JSON") as told:
        canonical({"a": value}, field="metadata")
    assert told.value.field == "metadata"


def test_what_is_nested_too_deep_is_refused_before_it_is_encoded() -> None:
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    canonical(value, field="input")
    for _ in range(5000):
        value = [value]
    with pytest.raises(InvalidRequest, match="nested deeper than 32"):
        canonical(value, field="input")


def test_an_open_transaction_of_one_owner_keeps_nobody_else_waiting(app: App, owner: KeyId) -> None:
    other = app.keys.create("other").key_id
    app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    with Session(app.engine) as session:
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, session=session)
        with ThreadPoolExecutor(8) as pool:
            held = [pool.submit(app.tasks.accept, [new_task(owner)]) for _ in range(4)]
            free = [pool.submit(app.tasks.accept, [new_task(KeyId(other))]) for _ in range(4)]
            for accepted in free:
                assert len(accepted.result(3).tasks) == 1
            for refused in held:
                with pytest.raises(StoreUnavailable, match="nothing was accepted"):
                    refused.result(3)
        session.commit()

    assert len(app.tasks.list(owner=owner).tasks) == 2
    assert len(app.tasks.list(owner=other).tasks) == 4


def test_a_retry_keeps_the_deadline_and_its_key_makes_one_task(app: App, owner: KeyId) -> None:
    old = app.tasks.enqueue(DiagnosticNoop(), owner=owner, deadline=timedelta(days=1))
    app.tasks.cancel(old.public_id)

    first = app.tasks.retry(old.public_id, idempotency_key="again")
    second = app.tasks.retry(old.public_id, idempotency_key="again")

    assert first.public_id == second.public_id
    with app.engine.connect() as connection:
        left = connection.execute(
            sa.text("SELECT extract(epoch FROM deadline_at - run_at) FROM tasks WHERE public_id = :id"),
            {"id": first.public_id},
        ).scalar_one()
    assert left == timedelta(days=1).total_seconds()


def test_a_session_rings_for_what_it_committed_and_not_for_what_it_rolled_back(app: App, owner: KeyId) -> None:
    with Session(app.engine) as session:
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, session=session)
        session.rollback()
        session.commit()
        assert not app.bells.take("default")
        app.tasks.enqueue(DiagnosticNoop(), owner=owner, session=session)
        session.commit()

    wait_until(lambda: app.bells.take("default"), 5)
