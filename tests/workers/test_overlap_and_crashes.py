"""Laws 1 and 3 under two worker processes and kill -9: each task ends once, and no two run it at a time."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

from core.app import App
from core.ids import KeyId
from core.task_types.diagnostic import DiagnosticExit, DiagnosticNoop
from tests.support.probe_tasks import Trace, read_trace
from tests.support.waiting import wait_until
from tests.support.worker_processes import query, signal_all
from tests.workers.conftest import StartWorkers


def unfinished(app: App) -> int:
    count: int = query(app, "SELECT count(*) FROM tasks WHERE finished_at IS NULL")[0][0]
    return count


def states(app: App) -> dict[str, int]:
    return dict(query(app, "SELECT state, count(*) FROM tasks GROUP BY state"))


def test_two_worker_processes_run_2000_tasks_without_overlap(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    with start_workers(worker_processes=2) as workers:
        workers.await_children(2)
        # Now: before, the first to start might do them all.
        app.tasks.enqueue_many([Trace(path=str(trace)) for _ in range(2000)], owner=owner)
        wait_until(lambda: not unfinished(app), 60, what="2,000 tasks end")

    assert states(app) == {"completed": 2000}
    begun = Counter(line.task_id for line in read_trace(trace) if line.word == "begin")
    assert len(begun) == 2000
    assert set(begun.values()) == {1}
    assert query(app, "SELECT DISTINCT attempt FROM tasks") == [(1,)]
    assert len({line.pid for line in read_trace(trace)}) == 2


def test_killed_workers_lose_and_double_nothing(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    app.tasks.enqueue_many([Trace(path=str(trace), seconds=0.25) for _ in range(300)], owner=owner)

    killed: set[int] = set()
    with start_workers(worker_processes=2) as workers:
        workers.await_children(2)
        while len(killed) < 4:
            # One that works: killing an idle one would prove nothing.
            at_work = wait_until(
                lambda: [p for p in workers.pids() if p in {line.pid for line in read_trace(trace)} - killed],
                30,
                what="another worker at work",
            )
            victim = at_work[0]
            signal_all([victim], signal.SIGKILL)
            killed.add(victim)
        in_time = wait_until(lambda: time.monotonic() if not unfinished(app) else 0.0, 60, what="300 tasks end")

    assert in_time
    assert states(app) == {"completed": 300}
    attempts: list[int] = [row[0] for row in query(app, "SELECT attempt FROM tasks")]
    assert max(attempts) >= 2
    lines = read_trace(trace)
    begun = Counter(line.task_id for line in lines if line.word == "begin")
    ended = Counter(line.task_id for line in lines if line.word == "end")
    assert sum(begun.values()) <= sum(attempts)
    assert set(ended.values()) <= {1, 2}  # twice only where the process died between the work and its commit


def test_tasks_of_a_killed_deployment_return_within_lease_and_5_seconds(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    tasks = app.tasks.enqueue_many([Trace(path=str(trace), seconds=2.0) for _ in range(4)], owner=owner)
    with start_workers() as workers:
        wait_until(lambda: len(read_trace(trace)) == 4, 30, what="all four run")
        killed_at = time.time()
        workers.kill_all()

    with start_workers():
        wait_until(lambda: len(read_trace(trace)) == 8, 30, what="all four run again")
        again = [line for line in read_trace(trace) if line.at > killed_at]
        wait_until(lambda: not unfinished(app), 30, what="they end")

    assert max(line.at for line in again) < killed_at + 4 + 5
    assert {line.attempt for line in again} == {2}
    assert {app.tasks.get(task.public_id)["state"] for task in tasks} == {"completed"}


def test_a_task_that_kills_its_worker_fails_after_three_and_its_neighbours_complete(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    poison = app.tasks.enqueue(DiagnosticExit(), owner=owner)
    app.tasks.enqueue_many([Trace(path=str(trace), seconds=0.2) for _ in range(20)], owner=owner)

    with start_workers() as workers:
        wait_until(lambda: not unfinished(app), 60, what="all tasks end")
        wait_until(lambda: not workers.pids(solo=True), 10, what="the solo process ends")
        after = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
        assert app.tasks.wait(after.public_id)["state"] == "completed"

    failed = app.tasks.get(poison.public_id)
    assert (failed["state"], failed["error"]["code"], failed["attempt"]) == ("failed", "worker_lost", 3)
    assert states(app) == {"completed": 21, "failed": 1}


def test_one_dead_child_does_not_stop_its_siblings(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    with start_workers(worker_processes=2, worker_threads=1) as workers:
        workers.await_children(2)
        app.tasks.enqueue_many([Trace(path=str(trace), seconds=1.5) for _ in range(2)], owner=owner)
        first, second = wait_until(lambda: r if len(r := read_trace(trace)) == 2 else [], 10, what="both run")
        signal_all([first.pid], signal.SIGKILL)
        wait_until(lambda: not unfinished(app), 30, what="both end")

    lines = read_trace(trace)
    assert Counter(line.task_id for line in lines if line.word == "begin") == {first.task_id: 2, second.task_id: 1}
    assert {line.pid for line in lines if line.task_id == second.task_id} == {second.pid}


def test_a_worker_stopped_beyond_its_lease_changes_nothing_when_it_wakes(
    app: App, owner: KeyId, trace: Path, start_workers: StartWorkers
) -> None:
    task = app.tasks.enqueue(Trace(path=str(trace), seconds=1.0), owner=owner)
    with start_workers(worker_processes=2, worker_threads=1) as workers:
        workers.await_children(2)
        first = wait_until(lambda: read_trace(trace), 20, what="it runs")[0]
        signal_all([first.pid], signal.SIGSTOP)
        done = app.tasks.wait(task.public_id)
        assert (done["state"], done["attempt"]) == ("completed", 2)

        signal_all([first.pid], signal.SIGCONT)
        wait_until(lambda: "declared dead" in workers.text(), 10, what="the stopped worker learns of its death")
        wait_until(lambda: len(workers.pids()) == 2, 20, what="it is replaced")

    assert app.tasks.get(task.public_id) == done
