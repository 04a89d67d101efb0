"""How worker processes end: SIGTERM to whomever, broken threads, bad settings. No accepted task is lost by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.app import App
from core.ids import KeyId
from core.settings import child_environment
from core.task_types.spec import TaskInput
from tests.support.probe_tasks import AsyncTrace, KillThread, Trace, read_trace
from tests.support.waiting import wait_until
from tests.support.worker_processes import CHECKOUT, is_running, query, signal_all
from tests.workers.conftest import StartWorkers


def test_sigterm_to_every_process_lets_running_tasks_end_and_exits_0(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    app.tasks.enqueue_many([Trace(path=str(trace), seconds=1.0) for _ in range(40)], owner=owner)
    with start_workers(worker_processes=2) as workers:
        children = workers.await_children(2)
        wait_until(lambda: len(read_trace(trace)) >= 12, 20, what="both processes are at work")

        os.killpg(workers.process.pid, signal.SIGTERM)
        signal_all(children, signal.SIGTERM)  # a platform that signals each process
        os.killpg(workers.process.pid, signal.SIGTERM)

        assert workers.process.wait(15) == 0
        assert not [pid for pid in children if is_running(pid)]

    begun = {line.task_id for line in read_trace(trace) if line.word == "begin"}
    assert begun == {line.task_id for line in read_trace(trace) if line.word == "end"}
    rows = query(app, "SELECT public_id, state, attempt, crashes, worker_id FROM tasks")
    assert {row[:4] for row in rows if row[0] in begun} == {(task_id, "completed", 1, 0) for task_id in begun}
    assert {row[1:] for row in rows if row[0] not in begun} == {("pending", 0, 0, None)}


@pytest.mark.parametrize("how", ["steps", "block", "await"])
def test_tasks_that_outlast_the_grace_go_back_without_using_up_a_budget(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers, how: str
) -> None:
    def probe(seconds: float) -> TaskInput:
        if how == "await":
            return AsyncTrace(path=str(trace), seconds=seconds)
        return Trace(path=str(trace), seconds=seconds, how=how)

    task = app.tasks.enqueue(probe(60.0), owner=owner, max_attempts=1)
    with start_workers(shutdown_grace_s=3.0) as workers:
        wait_until(lambda: read_trace(trace), 20, what="it runs")
        began = time.monotonic()

        assert workers.stop() == 0
        assert time.monotonic() - began < 3.5

    row = query(app, "SELECT state, attempt, failures, crashes, ready, worker_id FROM tasks")[0]
    assert row == ("pending", 1, 0, 0, True, None)
    assert app.tasks.get(task.public_id)["error"] is None


def test_a_process_whose_thread_died_is_replaced_and_its_task_runs_again(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    names = ["ears", "watch", "heartbeat", "WorkerThread", "ConsumerThread"]
    with start_workers(worker_threads=2, worker_processes=3) as workers:
        for name in names:
            task = app.tasks.enqueue(KillThread(name=name, path=str(trace)), owner=owner)
            done = app.tasks.wait(task.public_id)
            assert (name, done["state"], done["attempt"]) == (name, "completed", 2)
            assert query(app, "SELECT crashes FROM tasks WHERE public_id = :id", id=task.public_id) == [(1,)]
        assert workers.text().count("threads died") == len(names)


def test_killed_supervisor_takes_its_children_with_it(app: App, start_workers: StartWorkers) -> None:
    with start_workers(worker_processes=2) as workers:
        children = workers.await_children(2)

        workers.process.kill()

        wait_until(lambda: not any(is_running(pid) for pid in children), 5, what="the children end")


def test_without_a_database_at_the_start_workers_wait_for_it_and_stop_cleanly(
    app: App, start_workers: StartWorkers
) -> None:
    nowhere = SecretStr("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with start_workers(database_url=nowhere) as workers:
        wait_until(lambda: "waiting for the database" in workers.text(), 20, what="the child waits")
        assert workers.process.poll() is None

        assert workers.stop() == 0

    assert "secret" not in workers.text()


def test_only_named_queues_are_served_and_they_are_made_known(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    with start_workers("--queues", "slow,slow-er", "--processes", "1", "--threads", "2"):
        wait_until(lambda: query(app, "SELECT 1 FROM queues WHERE name = 'slow-er'"), 20, what="the queue")
        elsewhere = app.tasks.enqueue(Trace(path=str(trace)), owner=owner)
        task = app.tasks.enqueue(Trace(path=str(trace)), owner=owner, queue="slow-er")
        assert app.tasks.wait(task.public_id)["state"] == "completed"

    assert app.tasks.get(elsewhere.public_id)["state"] == "pending"
    assert query(app, "SELECT DISTINCT queues FROM workers") == [(["slow", "slow-er"],)]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--queues", "Not A Queue"], "queue name"), (["--processes", "0"], "HEADRACE_WORKER_PROCESSES")],
)
def test_settings_that_cannot_work_are_one_line_and_status_2(app: App, arguments: list[str], word: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "workers", *arguments],
        env=child_environment(app.settings),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 2
    assert word in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_worker_process_stays_below_120_mb_and_imports_nothing_of_the_others(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    with start_workers() as workers:
        (pid,) = workers.await_children(1)
        app.tasks.enqueue_many([Trace(path=str(trace)) for _ in range(1000)], owner=owner)
        wait_until(lambda: len(read_trace(trace)) == 2000, 30, what="1,000 tasks")

        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    assert resident_kb < 120_000
    foreign = ["fastapi", "starlette", "typer", "rich", "openai", "apscheduler", "httpx2", "uvicorn"]
    script = f"import sys, workers.child; print([m for m in sys.modules if m in {foreign}])"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
