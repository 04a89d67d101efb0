from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from core.app import App
from core.connections import autocommit
from core.ids import KeyId, PublicId, WorkerId
from core.schema import metadata
from core.tasks import accept, leases, queries, queues, store
from core.tasks.model import LEGAL_MOVES, Claimed, Outcome, Task, TaskError, TaskState
from core.tasks.store import Finish
from core.tasks.sweeper import Sweeper
from tests.core.tasks.conftest import TYPES, live_worker, new_task

Accepted = Callable[..., PublicId]
DONE = Outcome(state=TaskState.COMPLETED, result_json='{"ok": true}')


def claim_all(connection: sa.Connection, worker: WorkerId, *, limit: int = 100) -> list[Claimed]:
    return store.claim(connection, "default", TYPES, limit=limit, worker=worker).tasks


def row(connection: sa.Connection, public_id: PublicId) -> Task:
    task = queries.by_public_id(connection, public_id)
    assert task is not None
    return task


def test_claim_takes_priority_first_then_fair_rank(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    low = accepted(priority=1)
    first = accepted()
    second = accepted()
    high = accepted(priority=9)

    claimed = claim_all(connection, worker)

    assert [c.task.public_id for c in claimed] == [high, first, second, low]
    assert {c.task.state for c in claimed} == {TaskState.PROCESSING}
    assert [c.task.version for c in claimed] == [2, 2, 2, 2]
    assert [c.task.attempt for c in claimed] == [1, 1, 1, 1]


def test_a_late_small_owner_is_served_amid_the_burst_of_another(
    app: App, connection: sa.Connection, worker: WorkerId
) -> None:
    big, small = app.keys.create("big").key_id, app.keys.create("small").key_id
    accept.insert(connection, [new_task(big) for _ in range(50)])
    accept.insert(connection, [new_task(small) for _ in range(5)])

    first_ten = claim_all(connection, worker, limit=10)

    assert Counter(c.task.owner_id for c in first_ten) == {big: 5, small: 5}


def test_an_owner_who_was_idle_gathers_no_credit(app: App, connection: sa.Connection, worker: WorkerId) -> None:
    busy, idle = app.keys.create("busy").key_id, app.keys.create("idle").key_id
    accept.insert(connection, [new_task(busy) for _ in range(100)])
    taken = store.claim(connection, "default", TYPES, limit=100, worker=worker)
    with_time = [("default", taken.highest_rank)]
    queues.advance(connection, with_time)

    accept.insert(connection, [new_task(idle) for _ in range(50)])
    accept.insert(connection, [new_task(busy) for _ in range(50)])

    next_twenty = claim_all(connection, worker, limit=20)
    assert Counter(c.task.owner_id for c in next_twenty) == {busy: 10, idle: 10}


def test_claim_leaves_future_tasks_other_queues_and_unknown_types(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    accepted(run_at=datetime.now(UTC) + timedelta(hours=1))
    accepted(type="newer.type")
    now = accepted()

    assert [c.task.public_id for c in claim_all(connection, worker)] == [now]


def test_claims_of_eight_threads_never_share_a_task(
    app: App, connection: sa.Connection, owner: KeyId, worker: WorkerId
) -> None:
    accept.insert(connection, [new_task(owner) for _ in range(400)])
    barrier = threading.Barrier(8)
    taken: list[PublicId] = []
    lock = threading.Lock()

    def claimer() -> None:
        barrier.wait(10)
        with autocommit(app.engine).connect() as own:
            while got := claim_all(own, worker, limit=random.randint(1, 5)):
                with lock:
                    taken.extend(c.task.public_id for c in got)

    threads = [threading.Thread(target=claimer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(taken) == 400
    assert len(set(taken)) == 400


def test_finish_stores_the_result_to_the_letter(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    result = '{"b": 1.0, "a": 1e-7, "text": "\\u0000 \\ud800 é"}'

    finished = store.finish(connection, [Finish(claimed, replace(DONE, result_json=result))])

    task = row(connection, public_id)
    assert task.result_json == result
    assert task.state is TaskState.COMPLETED
    assert task.finished_at is not None
    assert finished.tasks[claimed.task.id].stamp == task.stamp


def test_a_stale_token_changes_nothing(connection: sa.Connection, accepted: Accepted, worker: WorkerId) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    stale = replace(claimed, token=claimed.token ^ 1)

    finished = store.finish(connection, [Finish(stale, DONE)])

    assert finished.tasks == {}
    assert row(connection, public_id).state is TaskState.PROCESSING


def test_a_worker_that_was_buried_cannot_finish(connection: sa.Connection, accepted: Accepted, app: App) -> None:
    public_id = accepted()
    first, second = live_worker(connection), live_worker(connection)
    (old,) = claim_all(connection, first)
    Sweeper(app.engine, app.copies, app.bells, lease_s=30).bury_now(first)
    (new,) = claim_all(connection, second)
    store.finish(connection, [Finish(new, replace(DONE, result_json='"new"'))])

    store.finish(connection, [Finish(old, replace(DONE, result_json='"old"'))])

    assert row(connection, public_id).result_json == '"new"'


def test_sending_a_finish_twice_is_recognised_as_written(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    accepted()
    (claimed,) = claim_all(connection, worker)
    once = store.finish(connection, [Finish(claimed, DONE)])

    again = store.finish(connection, [Finish(claimed, DONE)])

    assert again.tasks[claimed.task.id].stamp == once.tasks[claimed.task.id].stamp


@pytest.mark.parametrize("final", ["completed", "failed", "cancelled", "timed_out"])
def test_the_database_refuses_to_change_a_final_row(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId, final: str
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    store.finish(connection, [Finish(claimed, Outcome(state=TaskState(final)))])

    with pytest.raises(sa.exc.IntegrityError, match="may not go from"):
        connection.exec_driver_sql(
            "UPDATE tasks SET version = version + 1, result = '1' WHERE public_id = %(id)s", {"id": public_id}
        )


def test_a_retry_waits_until_its_time_and_clears_nothing_but_the_holder(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    again = Outcome(
        state=TaskState.PENDING,
        after=timedelta(hours=1),
        error=TaskError("provider_unavailable", "503", retryable=True),
        counts_as="failure",
    )

    store.finish(connection, [Finish(claimed, again)])

    task = row(connection, public_id)
    assert task.state is TaskState.PENDING
    assert task.error == TaskError("provider_unavailable", "503", retryable=True)
    assert task.run_at > datetime.now(UTC) + timedelta(minutes=59)
    assert claim_all(connection, worker) == []


def test_a_returned_claim_leaves_no_attempt_behind(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    accepted()
    (claimed,) = claim_all(connection, worker)

    store.finish(connection, [Finish(claimed, Outcome.returned(claimed))])

    (again,) = claim_all(connection, worker)
    assert again.task.attempt == 1
    assert again.task.version == 4


def test_a_parked_task_is_processing_held_by_nobody_and_keeps_its_attempt(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId, app: App
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    parked = Outcome(state=TaskState.PROCESSING, poll_state_json='{"video": 1}')
    store.finish(connection, [Finish(claimed, parked)])
    assert row(connection, public_id).state is TaskState.PROCESSING
    assert connection.exec_driver_sql("SELECT worker_id FROM tasks").scalar_one() is None
    report = Sweeper(app.engine, app.copies, app.bells, lease_s=30).sweep()

    assert report.woken == 1
    (again,) = claim_all(connection, worker)
    assert again.poll_state_json == '{"video": 1}'
    assert again.task.attempt == 1


def test_cancel_ends_a_waiting_task_at_once(connection: sa.Connection, accepted: Accepted, worker: WorkerId) -> None:
    public_id = accepted()

    done = store.cancel(connection, public_id, owner=None)

    assert done is not None
    assert done.task.state is TaskState.CANCELLED
    assert claim_all(connection, worker) == []


def test_cancel_of_a_running_task_is_an_intent_that_a_retry_obeys(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)

    noted = store.cancel(connection, public_id, owner=None)
    assert noted is not None
    assert noted.worker_id == worker
    assert leases.heartbeat(connection, worker).cancelled == [public_id]

    store.finish(connection, [Finish(claimed, Outcome(state=TaskState.PENDING, counts_as="failure"))])
    assert row(connection, public_id).state is TaskState.CANCELLED


def test_a_finish_already_queued_wins_over_a_cancel(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    store.cancel(connection, public_id, owner=None)

    store.finish(connection, [Finish(claimed, DONE)])

    assert row(connection, public_id).state is TaskState.COMPLETED


def test_cancel_of_another_owners_task_finds_nothing(connection: sa.Connection, accepted: Accepted) -> None:
    public_id = accepted()

    assert store.cancel(connection, public_id, owner="somebody-else") is None
    assert row(connection, public_id).state is TaskState.PENDING


def test_progress_is_fenced_and_raises_the_version(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    progress = store.Progress(claimed.task.id, claimed.token, '{"percent": 40.0, "message": "encoding"}')

    store.report_progress(
        connection, [progress, replace(progress, token=claimed.token ^ 1, progress_json='{"percent": 1.0}')]
    )

    task = row(connection, public_id)
    assert task.progress_json == '{"percent": 40.0, "message": "encoding"}'
    assert task.version == 3


def test_progress_after_the_finish_changes_nothing(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    (claimed,) = claim_all(connection, worker)
    store.finish(connection, [Finish(claimed, DONE)])

    changed = store.report_progress(connection, [store.Progress(claimed.task.id, claimed.token, '{"percent": 1.0}')])

    assert changed == []
    assert row(connection, public_id).version == 3


def test_a_claim_whose_answer_was_lost_is_returned_with_its_attempt_undone(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId
) -> None:
    public_id = accepted()
    token = store.new_token()
    store.claim(connection, "default", TYPES, limit=1, worker=worker, token=token)

    assert store.disown(connection, worker, [token]) == 1

    task = row(connection, public_id)
    assert (task.state, task.attempt) == (TaskState.PENDING, 0)
    assert len(claim_all(connection, worker)) == 1


def test_the_tables_are_those_that_the_code_describes(connection: sa.Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    differences = [
        d for d in compare_metadata(context, metadata) if "pg_stat" not in repr(d) and "modify_comment" not in repr(d)
    ]

    assert differences == []


@pytest.mark.parametrize("before", list(TaskState))
@pytest.mark.parametrize("after", list(TaskState))
def test_the_database_makes_exactly_the_legal_moves(
    connection: sa.Connection, accepted: Accepted, worker: WorkerId, before: TaskState, after: TaskState
) -> None:
    accepted()
    if before is not TaskState.PENDING:
        (claimed,) = claim_all(connection, worker)
        if before.is_final:
            store.finish(connection, [Finish(claimed, Outcome(state=before))])
    move = """UPDATE tasks SET state = %(after)s, version = version + 1,
        finished_at = CASE WHEN %(final)s THEN now() END"""

    try:
        connection.exec_driver_sql(move, {"after": str(after), "final": after.is_final})
        made = True
    except sa.exc.IntegrityError:
        made = False

    stays = before is after and not before.is_final  # a change within a state, e.g. progress
    assert made == (after in LEGAL_MOVES[before] or stays)
