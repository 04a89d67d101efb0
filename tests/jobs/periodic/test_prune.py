from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
import sqlalchemy as sa

from core.app import App
from core.errors import TaskIsFinal, TaskNotFound
from core.ids import PublicId
from core.task_types.diagnostic import DiagnosticNoop
from core.tasks import archive
from core.tasks.model import Task
from core.tasks.status import StatusReader
from jobs.periodic import prune
from jobs.spec import JobContext, JobStopped
from tests.support.worker_processes import query


@pytest.fixture
def owner(app: App) -> str:
    return app.keys.create(name="prune").key_id


def context(app: App, **settings: float) -> JobContext:
    """A run of the job with these settings."""
    with_settings = App(
        **{name: getattr(app, name) for name in App.__dataclass_fields__}
        | {"settings": app.settings.model_copy(update=settings)}
    )
    log = logging.getLogger("jobs.periodic.prune")
    return JobContext(app=with_settings, name="prune", due_at=datetime.now(UTC), attempt=1, log=log)


def final_task(app: App, owner: str, *, days_ago: float, result: str = '{"a":1.10}', state: str = "completed") -> Task:
    """A task that was accepted and ended so long ago."""
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner, metadata={"mine": "é"})
    made_at = query(app, "SELECT now() - make_interval(secs => :secs)", secs=days_ago * 86_400)[0][0]
    old_id = archive.first_id_of(made_at).int | (task.id.int & (2**80 - 1))
    with app.engine.begin() as connection:
        for statement in (
            "UPDATE tasks SET state = 'processing', version = 2 WHERE id = :id",
            "UPDATE tasks SET state = :state, version = 3, changed_at = :at, finished_at = :at, ready = false,"
            " result = :result, id = :old WHERE id = :id",
        ):
            values = {"id": task.id, "state": state, "at": made_at, "result": result, "old": UUID(int=old_id)}
            connection.execute(sa.text(statement), values)
    return task


def copy_of(app: App, task: Task) -> object:
    return app.cache.client.get(app.status_keys.of(task.public_id))


def test_old_final_tasks_are_archived_and_still_answered_to_the_letter(app: App, owner: str) -> None:
    result = '{"n":1.10,"n2":1e400,"text":"\\ud800"}'
    old = final_task(app, owner, days_ago=8, result=result)
    young = final_task(app, owner, days_ago=6)
    before = app.tasks.status(old.public_id)
    assert copy_of(app, old) is not None

    said = prune.run(context(app))

    assert said == "archived 1 tasks, deleted 0, forgot 0 runs"
    assert copy_of(app, old) is None
    assert query(app, "SELECT public_id FROM tasks") == [(young.public_id,)]
    after = StatusReader(app.copies, app.tasks.read_row).read(
        old.public_id
    )  # as another process, with nothing in memory
    assert after is not None
    assert result.encode() in after.body
    assert (after.body, after.stamp, after.owner_id) == (before.body, before.stamp, before.owner_id)
    with pytest.raises(TaskIsFinal):
        app.tasks.cancel(old.public_id, owner=owner)
    with pytest.raises(TaskNotFound):
        app.tasks.status(old.public_id, owner="somebody else")


def test_archived_tasks_are_deleted_thirty_days_after_their_end(app: App, owner: str) -> None:
    ancient = final_task(app, owner, days_ago=31)
    old = final_task(app, owner, days_ago=29)

    said = prune.run(context(app))

    assert said == "archived 2 tasks, deleted 1, forgot 0 runs"
    assert query(app, "SELECT public_id FROM archived_tasks") == [(old.public_id,)]
    with pytest.raises(TaskNotFound):
        app.tasks.status(ancient.public_id, owner=owner)


def test_tasks_that_are_not_final_stay_however_old(app: App, owner: str) -> None:
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    old_id = UUID(int=archive.first_id_of(datetime(2020, 1, 1, tzinfo=UTC)).int | 7)
    with app.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE tasks SET id = :new, version = 2 WHERE id = :old"), {"new": old_id, "old": task.id}
        )

    prune.run(context(app))

    assert app.tasks.read_row(task.public_id) is not None


def test_zero_days_switch_archiving_and_deleting_off(app: App, owner: str) -> None:
    final_task(app, owner, days_ago=400)

    assert prune.run(context(app, archive_after_days=0)).startswith("archived 0 tasks, deleted 0")
    assert prune.run(context(app, delete_after_days=0)).startswith("archived 1 tasks, deleted 0")


def test_large_results_go_in_smaller_batches(app: App, owner: str) -> None:
    large = '"' + "x" * (3 * 1024 * 1024) + '"'
    for _ in range(4):
        final_task(app, owner, days_ago=8, result=large)

    with app.engine.begin() as connection:
        now: datetime = connection.execute(sa.select(sa.func.now())).scalar_one()
        batch = archive.archive(connection, before=now)

    assert len(batch.public_ids) == 2
    assert prune.run(context(app)).startswith("archived 2 tasks")


@pytest.mark.alone
def test_claims_and_readers_go_on_while_thousands_are_archived(app: App, owner: str) -> None:
    with app.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE tasks DISABLE TRIGGER ALL")
        connection.execute(
            sa.text("""
            INSERT INTO tasks (id, public_id, owner_id, type, queue, priority, max_attempts, input, metadata,
                created_at, deadline_s, deadline_at, state, version, changed_at, rank, ready, solo, run_at, attempt,
                failures, rate_limits, crashes, finished_at, result)
            SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
                'task_' || lpad(to_hex(n), 32, '0'), :owner, 'diagnostic.noop', 'default', 5, 3, '{}', '{}',
                now() - interval '9 days', 600, now(), 'completed', 3,
                now() - interval '8 days', 0, false, false, now() - interval '9 days', 1, 0, 0, 0,
                now() - interval '8 days', '{}'
            FROM generate_series(1, 5000) n"""),
            {"owner": owner},
        )
        connection.exec_driver_sql("ALTER TABLE tasks ENABLE TRIGGER ALL")
    done = threading.Event()
    took_s: list[float] = []

    def use() -> None:
        while not done.is_set():
            began = time.monotonic()
            task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
            assert app.tasks.read_row(PublicId(task.public_id)) is not None
            took_s.append(time.monotonic() - began)

    user = threading.Thread(target=use)
    user.start()
    said = prune.run(context(app))
    done.set()
    user.join(10)

    assert said.startswith("archived 5000 tasks")
    # Far below what a lock would cost; the machine may be busy.
    assert sorted(took_s)[len(took_s) // 2] < 0.25
    assert query(app, "SELECT count(*) FROM archived_tasks")[0][0] == 5000


def test_old_runs_are_forgotten_and_open_ones_kept(app: App) -> None:
    with app.engine.begin() as connection:
        connection.exec_driver_sql(
            """INSERT INTO schedule_runs (id, schedule_id, due_at, due_times, outcome, attempt)
            SELECT gen_random_uuid(), gen_random_uuid(), now() - make_interval(days => days), 1, outcome, 0
            FROM (VALUES (91, 'succeeded'), (91, 'skipped'), (91, 'waiting'), (89, 'failed')) AS v(days, outcome)"""
        )

    assert prune.run(context(app)).endswith("forgot 2 runs")
    assert {row[0] for row in query(app, "SELECT outcome FROM schedule_runs")} == {"waiting", "failed"}


def test_bans_and_acts_that_nobody_needs_are_forgotten(app: App) -> None:
    with app.engine.begin() as connection:
        connection.exec_driver_sql(
            """INSERT INTO bans SELECT network::cidr, 'x', 10, 0, 1, now() - interval '9 days', now() - ago::interval
            FROM (VALUES ('203.0.113.1', '8 days'), ('203.0.113.2', '6 days')) AS v(network, ago)"""
        )
        connection.exec_driver_sql(
            """INSERT INTO audit_log (id, at, actor, action)
            SELECT gen_random_uuid(), now() - interval '366 days', 'admin-key', 'x' FROM generate_series(1, 700)"""
        )

    assert prune.run(context(app)).endswith("1 bans, 700 acts")
    assert query(app, "SELECT network::text FROM bans") == [("203.0.113.2/32",)]


def test_a_stop_ends_it_between_two_batches(app: App, owner: str) -> None:
    final_task(app, owner, days_ago=8)
    ctx = context(app)
    ctx.stop.set()

    with pytest.raises(JobStopped):
        prune.run(ctx)

    assert query(app, "SELECT count(*) FROM archived_tasks")[0][0] == 1
