from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import redis
import sqlalchemy as sa

from core.app import App
from core.errors import StoreUnavailable
from core.ids import PublicId, WorkerId
from core.tasks import leases, queries, store
from core.tasks.model import Claimed, Outcome, Task, TaskState
from core.tasks.store import Finish
from core.tasks.sweeper import SWEEP_LOCK, Sweeper
from tests.core.tasks.conftest import TYPES, live_worker

Accepted = Callable[..., PublicId]


@pytest.fixture
def sweeper(app: App) -> Sweeper:
    return Sweeper(app.engine, app.copies, app.bells, lease_s=30)


def row(connection: sa.Connection, public_id: PublicId) -> Task:
    task = queries.by_public_id(connection, public_id)
    assert task is not None
    return task


def claim_one(connection: sa.Connection, worker: WorkerId, *, solo: bool = False) -> Claimed:
    (claimed,) = store.claim(connection, "default", TYPES, limit=1, worker=worker, solo=solo).tasks
    return claimed


def silence(connection: sa.Connection, worker: WorkerId, seconds: float) -> None:
    connection.exec_driver_sql(
        "UPDATE workers SET heartbeat_at = heartbeat_at - make_interval(secs => %(s)s) WHERE id = %(id)s",
        {"s": seconds, "id": str(worker)},
    )


def test_a_due_task_becomes_ready_and_its_queue_is_rung(
    app: App, connection: sa.Connection, accepted: Accepted, sweeper: Sweeper, worker: WorkerId
) -> None:
    public_id = accepted(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert sweeper.sweep().woken == 0
    connection.exec_driver_sql("UPDATE tasks SET run_at = now()")

    report = sweeper.sweep()

    assert (report.woken, report.rung) == (1, ["default"])
    assert app.bells.take("default")
    assert claim_one(connection, worker).task.public_id == public_id


def test_a_silent_workers_tasks_return_to_the_front_and_count_one_crash(
    connection: sa.Connection, accepted: Accepted, sweeper: Sweeper
) -> None:
    dying = live_worker(connection, lease=timedelta(seconds=2))
    lost = accepted()
    claim_one(connection, dying)
    accepted()
    silence(connection, dying, 2.5)
    wait_for_server_age(connection, 2.0)

    report = sweeper.sweep()

    assert report.buried == [dying]
    assert [task.public_id for task in report.returned] == [lost]
    assert claim_one(connection, live_worker(connection)).task.public_id == lost
    assert connection.exec_driver_sql("SELECT sum(crashes) FROM tasks").scalar_one() == 1


def wait_for_server_age(connection: sa.Connection, seconds: float) -> None:
    """Within a lease of the server's start nobody is buried, and the test's server may be younger than that."""
    deadline = time.monotonic() + seconds + 5
    while time.monotonic() < deadline:
        age = connection.exec_driver_sql("SELECT extract(epoch FROM now() - pg_postmaster_start_time())").scalar_one()
        if age > seconds:
            return
    raise AssertionError("the server does not grow older")


def test_a_worker_that_sends_heartbeats_keeps_its_tasks(
    connection: sa.Connection, accepted: Accepted, sweeper: Sweeper, worker: WorkerId
) -> None:
    accepted()
    claim_one(connection, worker)
    silence(connection, worker, 29)

    assert sweeper.sweep().buried == []
    assert leases.heartbeat(connection, worker).alive


def test_a_buried_worker_is_told_so_by_its_heartbeat(
    connection: sa.Connection, sweeper: Sweeper, worker: WorkerId
) -> None:
    sweeper.bury_now(worker)
    assert not leases.heartbeat(connection, worker).alive


def test_nobody_is_buried_for_a_lease_after_an_outage_that_the_sweeper_saw(app: App, connection: sa.Connection) -> None:
    now = [1000.0]
    sweeper = Sweeper(app.engine, app.copies, app.bells, lease_s=30, clock=lambda: now[0])
    dying = live_worker(connection, lease=timedelta(seconds=2))
    wait_for_server_age(connection, 2.0)
    silence(connection, dying, 60)
    engine = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing", connect_args={"connect_timeout": 2})
    sweeper._engine, real = engine, sweeper._engine
    with pytest.raises(StoreUnavailable):
        sweeper.sweep()
    sweeper._engine = real

    for _ in range(29):
        now[0] += 1
        assert sweeper.sweep().buried == []
    now[0] += 1
    assert sweeper.sweep().buried == [dying]


def test_the_second_crash_sends_a_task_to_run_alone_and_the_third_fails_it(
    connection: sa.Connection, accepted: Accepted, sweeper: Sweeper
) -> None:
    public_id = accepted()
    for solo in (False, False, True):
        worker = live_worker(connection)
        claim_one(connection, worker, solo=solo)
        sweeper.bury_now(worker)

    task = row(connection, public_id)
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert task.error.code == "worker_lost"
    assert task.attempt == 3


def test_a_clean_stop_counts_no_crash(connection: sa.Connection, accepted: Accepted, sweeper: Sweeper) -> None:
    accepted()
    worker = live_worker(connection)
    claim_one(connection, worker)
    leases.stop(connection, worker)

    (returned,) = sweeper.sweep().returned

    assert returned.state is TaskState.PENDING
    assert connection.exec_driver_sql("SELECT crashes FROM tasks").scalar_one() == 0


def test_an_orphan_whose_owner_cancelled_it_is_cancelled(
    connection: sa.Connection, accepted: Accepted, sweeper: Sweeper
) -> None:
    public_id = accepted()
    worker = live_worker(connection)
    claim_one(connection, worker)
    store.cancel(connection, public_id, owner=None)

    sweeper.bury_now(worker)

    assert row(connection, public_id).state is TaskState.CANCELLED


def test_a_parked_task_of_a_dead_worker_is_polled_again_and_not_submitted_again(
    connection: sa.Connection, accepted: Accepted, sweeper: Sweeper
) -> None:
    accepted()
    first, second = live_worker(connection), live_worker(connection)
    parked = Outcome(state=TaskState.PROCESSING, poll_state_json='{"video": 1}')
    store.finish(connection, [Finish(claim_one(connection, first), parked)])
    sweeper.sweep()
    claim_one(connection, second)

    sweeper.bury_now(second)

    assert claim_one(connection, live_worker(connection)).poll_state_json == '{"video": 1}'


def test_what_waits_past_its_deadline_times_out_and_its_poller_sees_it_at_once(
    app: App, connection: sa.Connection, accepted: Accepted, sweeper: Sweeper
) -> None:
    public_id = accepted(deadline=timedelta(seconds=60))
    assert app.tasks.get(public_id)["state"] == "pending"
    connection.exec_driver_sql("UPDATE tasks SET deadline_at = now()")

    report = sweeper.sweep()

    assert [task.public_id for task in report.expired] == [public_id]
    assert app.tasks.get(public_id)["state"] == "timed_out"


def test_an_event_whose_writer_died_is_announced_by_the_sweeper(
    app: App, connection: sa.Connection, accepted: Accepted, sweeper: Sweeper, worker: WorkerId
) -> None:
    public_id = accepted()
    store.finish(
        connection, [Finish(claim_one(connection, worker), Outcome(state=TaskState.COMPLETED, result_json="1"))]
    )
    connection.exec_driver_sql("UPDATE outbox SET created_at = now() - interval '3 seconds'")
    assert app.copies.get(public_id) is None

    assert sweeper.sweep().announced == 1

    found = app.copies.get(public_id)
    assert found is not None
    assert found.is_final
    assert connection.exec_driver_sql("SELECT count(*) FROM outbox").scalar_one() == 0


def test_only_one_process_sweeps_at_a_time(connection: sa.Connection, sweeper: Sweeper) -> None:
    connection.exec_driver_sql("SELECT pg_advisory_lock(%(lock)s)", {"lock": SWEEP_LOCK})
    assert not sweeper.sweep().led
    connection.exec_driver_sql("SELECT pg_advisory_unlock(%(lock)s)", {"lock": SWEEP_LOCK})
    assert sweeper.sweep().led


def test_a_sweeper_that_stands_still_does_not_keep_the_others_from_sweeping(
    app: App, connection: sa.Connection
) -> None:
    now = [1000.0]
    sweeper = Sweeper(app.engine, app.copies, app.bells, lease_s=30, clock=lambda: now[0])
    connection.exec_driver_sql("SELECT pg_advisory_lock(%(lock)s)", {"lock": SWEEP_LOCK})

    assert not sweeper.sweep().led
    now[0] += 4

    assert sweeper.sweep().led


def test_bells_lost_by_a_flush_are_rung_again(app: App, accepted: Accepted, sweeper: Sweeper) -> None:
    accepted()
    sweeper.sweep()
    client: redis.Redis = app.bells.link.client
    client.flushdb()

    sweeper.sweep()

    assert app.bells.take("default")


def test_one_bell_is_outstanding_however_often_it_is_rung(app: App) -> None:
    for _ in range(50):
        app.bells.ring("default")

    assert [app.bells.take("default") for _ in range(3)] == [True, False, False]


def test_nobody_is_buried_for_a_lease_after_a_pause_in_which_nothing_was_heard(
    app: App, connection: sa.Connection
) -> None:
    now = [1000.0]
    sweeper = Sweeper(app.engine, app.copies, app.bells, lease_s=30, clock=lambda: now[0])
    dying = live_worker(connection, lease=timedelta(seconds=2))
    wait_for_server_age(connection, 2.0)
    sweeper.sweep()
    silence(connection, dying, 60)

    now[0] += 40  # the server hung, and nothing raised
    assert sweeper.sweep().buried == []
    for _ in range(29):
        now[0] += 1
        assert sweeper.sweep().buried == []
    now[0] += 1
    assert sweeper.sweep().buried == [dying]
