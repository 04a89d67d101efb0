"""
Accept, claim, finish and cancel, killed before and after each of their calls to PostgreSQL and Redis (laws 1 to 3).

Complete for one task: the calls are counted first, then every one of them is a point where the process dies. What is
left must be put right by a sweep and one more worker: exactly one final state, no accepted task lost, none doubled.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from core.app import App
from core.connections import autocommit
from core.ids import KeyId, WorkerId, new_worker_id
from core.settings import Settings
from core.task_types.diagnostic import DiagnosticNoop
from core.tasks import leases
from core.tasks.model import Outcome, TaskState
from core.tasks.sweeper import Sweeper
from core.tasks.writer import TaskWriter
from tests.chaos.crash_points import Point, Scenario, run
from tests.core.tasks.conftest import TYPES, live_worker
from tests.support.waiting import wait_until

Say = Callable[[object], None]


def accept_one(app: App, say: Say) -> None:
    owner = app.keys.list()[0].key_id
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="once")
    say(task.public_id)
    app.tasks.close()


def work_off(app: App, say: Say) -> None:
    """A worker without Dramatiq: claim what there is, finish it, stop."""
    worker = new_worker_id()
    say(worker)
    with autocommit(app.engine).connect() as connection:
        leases.register(
            connection, leases.WorkerRow(id=worker, name="w", host="h", pid=1, queues=["default"], lease_s=30)
        )
    writer = TaskWriter(app.engine, app.copies, worker_id=worker, types=TYPES)
    writer.start()
    for claimed in writer.claim("default", limit=4, timeout_s=10):
        writer.finish(claimed, Outcome(state=TaskState.COMPLETED, result_json='"done"'))
    writer.close(10)
    with autocommit(app.engine).connect() as connection:
        leases.stop(connection, worker)


def cancel_one(app: App, say: Say) -> None:
    task = app.tasks.list().tasks[0]
    say(app.tasks.cancel(task.public_id).took_effect)


def points(
    scenario: Scenario, settings: Settings, clear: Callable[[], None], prepare: Callable[[], object] = lambda: None
) -> list[Point]:
    for _ in range(2):  # the first one also teaches the server the scripts
        prepare()
        calm = run(scenario, settings, None)
        clear()
    assert calm.calls is not None
    return [Point(number, after) for number in range(1, calm.calls + 1) for after in (False, True)]


@pytest.fixture
def connection(app: App) -> sa.Connection:
    return autocommit(app.engine).connect()


@pytest.fixture
def owner(app: App) -> KeyId:
    return app.keys.create("owner").key_id


@pytest.fixture
def clear(app: App, connection: sa.Connection) -> Callable[[], None]:
    def empty() -> None:
        connection.exec_driver_sql("TRUNCATE tasks, outbox, workers, idempotency_keys")
        app.cache.client.flushdb()
        app.tasks.statuses.memory.__init__()  # type: ignore[misc]  # a new process would begin so

    return empty


def final_states(connection: sa.Connection) -> list[str]:
    rows = connection.exec_driver_sql("SELECT state FROM tasks WHERE finished_at IS NOT NULL ORDER BY id")
    return list(rows.scalars())


def heal(app: App, connection: sa.Connection, dead: WorkerId | None) -> None:
    """What the rest of the system does after a crash: the supervisor buries, the sweeper sweeps, a worker works."""
    sweeper = Sweeper(app.engine, app.copies, app.bells, lease_s=30)
    if dead is not None:
        sweeper.bury_now(dead)
    writer = TaskWriter(app.engine, app.copies, worker_id=live_worker(connection), types=TYPES)
    writer.start()
    for claimed in writer.claim("default", limit=100, timeout_s=10):
        writer.finish(claimed, Outcome(state=TaskState.COMPLETED, result_json='"done"'))
    assert writer.close(10)
    connection.exec_driver_sql("UPDATE outbox SET created_at = created_at - interval '10 seconds'")
    wait_until(lambda: _swept_clean(sweeper, connection), 10, what="an empty outbox")


def _swept_clean(sweeper: Sweeper, connection: sa.Connection) -> bool:
    sweeper.sweep()
    return bool(connection.exec_driver_sql("SELECT count(*) = 0 FROM outbox").scalar_one())


def test_an_accept_killed_anywhere_makes_one_task_or_none_and_its_key_tells_which(
    app: App, settings: Settings, connection: sa.Connection, owner: KeyId, clear: Callable[[], None]
) -> None:
    tried = points(accept_one, settings, clear)
    assert len(tried) >= 8

    for point in tried:
        died = run(accept_one, settings, point)
        assert died.killed, f"{point} was not reached"
        before = connection.exec_driver_sql("SELECT public_id FROM tasks").scalars().all()
        assert len(before) <= 1
        assert [*died.said] == [*before][: len(died.said)], "what was acknowledged is there"

        again = app.tasks.enqueue(DiagnosticNoop(), owner=owner, idempotency_key="once")

        assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar_one() == 1, point
        assert [again.public_id] == [*before] or not before
        heal(app, connection, None)
        assert final_states(connection) == ["completed"], point
        clear()


def test_a_worker_killed_anywhere_leaves_every_task_with_one_final_state(
    app: App, settings: Settings, connection: sa.Connection, owner: KeyId, clear: Callable[[], None]
) -> None:
    def enqueue() -> list[str]:
        return [task.public_id for task in app.tasks.enqueue_many([DiagnosticNoop()] * 3, owner=owner)]

    tried = points(work_off, settings, clear, enqueue)
    assert len(tried) >= 12
    second_attempts = 0

    for point in tried:
        public_ids = enqueue()
        died = run(work_off, settings, point)
        # Announcements race with the end: the last calls of a run are not always made.
        finished_before = final_states(connection)
        (dead, *_) = died.said
        assert isinstance(dead, type(new_worker_id()))

        heal(app, connection, WorkerId(dead))

        assert final_states(connection) == ["completed"] * 3, point
        assert len(finished_before) in (0, 3), "a group is committed whole or not at all"
        for public_id in public_ids:
            assert app.tasks.get(public_id)["state"] == "completed", point
        second_attempts += connection.exec_driver_sql("SELECT count(*) FROM tasks WHERE attempt = 2").scalar_one()
        clear()
    assert second_attempts > 0, "no point lay between claim and finish"


def test_a_cancel_killed_anywhere_can_be_sent_again(
    app: App, settings: Settings, connection: sa.Connection, owner: KeyId, clear: Callable[[], None]
) -> None:
    def enqueue() -> str:
        return app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id

    tried = points(cancel_one, settings, clear, enqueue)

    for point in tried:
        public_id = enqueue()
        run(cancel_one, settings, point)

        assert app.tasks.cancel(public_id).took_effect

        heal(app, connection, None)
        assert final_states(connection) == ["cancelled"], point
        assert app.tasks.get(public_id)["state"] == "cancelled"
        clear()
