"""Cancel, deadline and handlers that do not listen."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from core.app import App
from core.ids import KeyId
from core.task_types.diagnostic import DiagnosticNoop
from core.task_types.spec import TaskInput
from tests.support.probe_tasks import AsyncTrace, Trace, read_trace
from tests.support.waiting import wait_until
from tests.support.worker_processes import query
from tests.workers.conftest import StartWorker
from workers.process import STUCK_HANDLER


def probe(trace: Path, how: str, seconds: float) -> TaskInput:
    if how in ("await", "deaf"):
        return AsyncTrace(path=str(trace), seconds=seconds, how=how)
    return Trace(path=str(trace), seconds=seconds, how=how)


@pytest.mark.parametrize("how", ["steps", "await"])
def test_a_running_task_is_cancelled_at_its_next_check_or_await(
    app: App, owner: KeyId, trace: Path, start_worker: StartWorker, how: str
) -> None:
    start_worker()
    task = app.tasks.enqueue(probe(trace, how, 60), owner=owner)
    wait_until(lambda: read_trace(trace), 10, what="it runs")
    asked_at = time.monotonic()

    assert not app.tasks.cancel(task.public_id).took_effect

    ended = app.tasks.wait(task.public_id, timeout=timedelta(seconds=10))
    assert (ended["state"], ended["error"], ended["result"]) == ("cancelled", None, None)
    assert time.monotonic() - asked_at < 1.0
    assert "end" not in {line.word for line in read_trace(trace)}


def test_a_cancel_that_was_not_announced_is_heard_at_the_next_heartbeat(
    app: App, owner: KeyId, trace: Path, start_worker: StartWorker
) -> None:
    start_worker()
    task = app.tasks.enqueue(probe(trace, "await", 60), owner=owner)
    wait_until(lambda: read_trace(trace), 10, what="it runs")

    query(app, "UPDATE tasks SET cancel_requested_at = now() RETURNING 1")

    assert app.tasks.wait(task.public_id, timeout=timedelta(seconds=5))["state"] == "cancelled"


def test_a_result_that_comes_before_the_handler_hears_of_the_cancel_wins(
    app: App, owner: KeyId, trace: Path, start_worker: StartWorker
) -> None:
    start_worker()
    task = app.tasks.enqueue(probe(trace, "block", 1.0), owner=owner)
    wait_until(lambda: read_trace(trace), 10, what="it runs")

    app.tasks.cancel(task.public_id)

    assert app.tasks.wait(task.public_id, timeout=timedelta(seconds=10))["state"] == "completed"


@pytest.mark.parametrize("how", ["steps", "spin", "await"])
def test_a_task_past_its_deadline_is_timed_out_whatever_its_handler_does(
    app: App, owner: KeyId, trace: Path, start_worker: StartWorker, how: str
) -> None:
    worker = start_worker(threads=1)
    app.tasks.wait(app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id)
    task = app.tasks.enqueue(probe(trace, how, 60), owner=owner, deadline=timedelta(seconds=1))

    ended = app.tasks.wait(task.public_id, timeout=timedelta(seconds=10))

    assert (ended["state"], ended["error"]["code"]) == ("timed_out", "deadline_exceeded")
    (begun,) = read_trace(trace)[:1]
    assert time.time() - begun.at < 2.5
    after = app.tasks.enqueue(probe(trace, "steps", 0), owner=owner)  # its thread is free again
    assert app.tasks.wait(after.public_id, timeout=timedelta(seconds=5))["state"] == "completed"
    assert worker.status is None


def test_a_handler_that_does_not_end_is_timed_out_and_its_process_replaced_after_the_others_ended(
    app: App, owner: KeyId, trace: Path, start_worker: StartWorker
) -> None:
    worker = start_worker(threads=3)
    app.tasks.wait(app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id)
    stuck = app.tasks.enqueue(probe(trace, "block", 40), owner=owner, deadline=timedelta(seconds=1))
    deaf = app.tasks.enqueue(probe(trace, "deaf", 40), owner=owner, deadline=timedelta(seconds=1))
    other = app.tasks.enqueue(probe(trace, "steps", 13), owner=owner)

    assert worker.join(25) == STUCK_HANDLER

    assert {app.tasks.get(task.public_id)["state"] for task in (stuck, deaf)} == {"timed_out"}
    assert app.tasks.get(other.public_id)["state"] == "completed"
