from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest
import sqlalchemy as sa

from core.app import App
from core.errors import Unavailable
from core.ids import KeyId, PublicId, WorkerId
from core.tasks import accept
from core.tasks.group_commit import GroupCommit
from core.tasks.model import Outcome, TaskState
from core.tasks.writer import TaskWriter, Want
from tests.core.tasks.conftest import TYPES, new_task
from tests.support.waiting import wait_until

Accepted = Callable[..., PublicId]


@pytest.fixture
def writer(app: App, worker: WorkerId) -> Generator[TaskWriter]:
    opened = TaskWriter(app.engine, app.copies, worker_id=worker, types=TYPES)
    opened.start()
    yield opened
    opened.close(5)


def states(connection: sa.Connection) -> list[str]:
    return list(connection.exec_driver_sql("SELECT state FROM tasks ORDER BY id").scalars())


def test_a_finish_is_durable_before_the_poller_hears_of_it(
    app: App, connection: sa.Connection, accepted: Accepted, writer: TaskWriter
) -> None:
    public_id = accepted()
    with app.cache.client.pubsub() as waiter:  # type: ignore[no-untyped-call]  # redis-py 8.1 leaves it untyped
        waiter.subscribe(app.status_keys.of(public_id))
        waiter.get_message(timeout=2)
        (claimed,) = writer.claim("default", limit=1, timeout_s=5)

        writer.finish(claimed, Outcome(state=TaskState.COMPLETED, result_json='{"ok":true}'))

        def heard_final() -> bool:
            message = waiter.get_message(timeout=0.1)
            return message is not None and message["data"].startswith(b"3-")

        wait_until(heard_final, 5)
    assert states(connection) == ["completed"]
    assert app.tasks.get(public_id)["result"] == {"ok": True}


def test_outbox_rows_go_once_they_are_announced(
    connection: sa.Connection, accepted: Accepted, writer: TaskWriter
) -> None:
    accepted()
    (claimed,) = writer.claim("default", limit=1, timeout_s=5)
    writer.finish(claimed, Outcome(state=TaskState.COMPLETED, result_json="1"))
    assert writer.flush(5)

    wait_until(lambda: connection.exec_driver_sql("SELECT count(*) FROM outbox").scalar_one() == 0, 5)


def test_threads_that_ask_together_share_what_there_is(
    connection: sa.Connection, owner: KeyId, app: App, worker: WorkerId
) -> None:
    accept.insert(connection, [new_task(owner) for _ in range(4)])
    writer = TaskWriter(app.engine, app.copies, worker_id=worker, types=TYPES)
    shares = writer.commit_claims([Want("default", 16), Want("default", 16)])

    assert [len(share) for share in shares if isinstance(share, list)] == [2, 2]


def test_one_unstorable_result_fails_alone(connection: sa.Connection, owner: KeyId, writer: TaskWriter) -> None:
    accept.insert(connection, [new_task(owner) for _ in range(9)])
    claimed = writer.claim("default", limit=9, timeout_s=5)
    for place, one in enumerate(claimed):
        text = "\x00" if place == 4 else '"fine"'  # NUL is what PostgreSQL's text refuses
        writer.finish(one, Outcome(state=TaskState.COMPLETED, result_json=text))
    assert writer.flush(10)

    assert states(connection) == ["completed"] * 4 + ["failed"] + ["completed"] * 4
    error = connection.exec_driver_sql("SELECT error::json->>'code' FROM tasks WHERE state = 'failed'").scalar_one()
    assert error == "result_unstorable"


def kill_others(connection: sa.Connection) -> int:
    """End every other connection to the test's database; how many there were."""
    return int(
        connection.exec_driver_sql(
            """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
        ).scalar_one()
    )


def test_finishes_survive_connections_that_are_killed(
    connection: sa.Connection, owner: KeyId, writer: TaskWriter
) -> None:
    accept.insert(connection, [new_task(owner) for _ in range(200)])
    claimed = writer.claim("default", limit=200, timeout_s=5)
    killed = 0
    for start in range(0, 200, 40):
        for one in claimed[start : start + 40]:
            writer.finish(one, Outcome(state=TaskState.COMPLETED, result_json="1"))
        killed += wait_until(lambda: kill_others(connection), 5)
    assert writer.flush(20)

    assert killed >= 3
    assert set(states(connection)) == {"completed"}
    assert connection.exec_driver_sql("SELECT max(version) FROM tasks").scalar_one() == 3


def test_progress_is_coalesced_and_shown(
    app: App, connection: sa.Connection, accepted: Accepted, writer: TaskWriter
) -> None:
    public_id = accepted()
    (claimed,) = writer.claim("default", limit=1, timeout_s=5)

    for percent in range(100):
        writer.progress(claimed, f'{{"percent": {percent}, "message": null}}')

    wait_until(lambda: app.tasks.get(public_id)["progress"]["percent"] == 99, 5)
    assert connection.exec_driver_sql("SELECT version FROM tasks").scalar_one() < 10


def test_a_group_that_is_full_refuses_instead_of_growing() -> None:
    entered, release = threading.Event(), threading.Event()

    def commit(items: list[int]) -> list[int | Exception]:
        entered.set()
        release.wait(10)
        return list(items)

    group: GroupCommit[int, int] = GroupCommit(commit, name="test", max_batch=1, max_waiting=2)
    first = group.submit(1)
    assert entered.wait(5)
    group.submit(2)
    group.submit(3)
    with pytest.raises(Unavailable):
        group.submit(4)
    release.set()
    assert first.result(5) == 1
    group.close(5)
