"""What becomes of a task whose handler returns or raises something odd; each ends, and its process lives on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson

from core.app import App
from core.ids import KeyId
from core.task_types.diagnostic import DiagnosticFail, DiagnosticNoop, DiagnosticResult
from core.task_types.spec import TaskInput
from tests.support.probe_tasks import Misbehave, Park
from tests.support.worker_processes import query
from tests.workers.conftest import StartWorker


def run(app: App, owner: KeyId, input: TaskInput, **options: Any) -> dict[str, Any]:
    task = app.tasks.enqueue(input, owner=owner, **{"max_attempts": 1, **options})
    return app.tasks.wait(task.public_id, timeout=timedelta(seconds=15))


def test_whatever_a_handler_does_its_task_ends_and_the_process_goes_on(
    app: App, owner: KeyId, start_worker: StartWorker
) -> None:
    worker = start_worker(threads=1)
    expected = {
        "raise:value": ("failed", "handler_error"),
        "raise:exit": ("failed", "handler_error"),
        "raise:odd": ("failed", "handler_error"),
        "raise:unreadable": ("failed", "handler_error"),
        "raise:cancelled": ("failed", "handler_error"),
        "return:set": ("failed", "result_unstorable"),
        "return:park_badly": ("failed", "handler_error"),
        "return:surrogate": ("completed", None),
        "return:big_int": ("completed", None),
        "return:nan": ("completed", None),
    }

    ended = {what: run(app, owner, Misbehave(what=what)) for what in expected}

    assert {what: (task["state"], (task["error"] or {}).get("code")) for what, task in ended.items()} == expected
    assert orjson.loads(query(app, "SELECT result FROM tasks WHERE result LIKE '%key%'")[0][0])["1"] == "key"
    assert run(app, owner, DiagnosticNoop())["state"] == "completed"
    assert worker.status is None


def test_an_error_message_is_bounded_and_holds_no_key(app: App, owner: KeyId, start_worker: StartWorker) -> None:
    start_worker(threads=1)

    error = run(app, owner, Misbehave(what="raise:value"))["error"]

    assert error["message"].startswith("ValueError: bad \x00 and ? with hr_abcdefghijkl_***")
    assert "sssss" not in error["message"]
    assert error["retryable"] is True


def test_a_failure_is_tried_again_as_often_as_asked(app: App, owner: KeyId, start_worker: StartWorker) -> None:
    start_worker(threads=1)

    permanent = run(app, owner, DiagnosticFail(retryable=False), max_attempts=3)
    used_up = run(app, owner, DiagnosticFail(message="again", times=None), max_attempts=1)

    assert (permanent["state"], permanent["attempt"], permanent["error"]["retryable"]) == ("failed", 1, False)
    assert used_up["error"] == {"code": "diagnostic", "message": "again", "retryable": True}
    assert query(app, "SELECT DISTINCT failures FROM tasks") == [(1,)]


def test_a_retry_waits_as_pending_with_its_last_error_shown(app: App, owner: KeyId, start_worker: StartWorker) -> None:
    start_worker(threads=1)
    task = app.tasks.enqueue(DiagnosticFail(message="later", times=1), owner=owner, max_attempts=2)

    app.tasks.wait(task.public_id, timeout=timedelta(seconds=0.5))

    waiting = app.tasks.get(task.public_id)
    assert (waiting["state"], waiting["attempt"], waiting["error"]["message"]) == ("pending", 1, "later")
    assert query(app, "SELECT failures, worker_id FROM tasks") == [(1, None)]


def test_a_result_over_the_limit_fails_and_one_of_the_limit_is_kept(
    app: App, owner: KeyId, start_worker: StartWorker
) -> None:
    limit = app.settings.result_limit_bytes
    start_worker(threads=1)

    over = run(app, owner, DiagnosticResult(size_bytes=limit + 1))
    exact = run(app, owner, DiagnosticResult(size_bytes=limit))

    assert (over["state"], over["error"]["code"], over["result"]) == ("failed", "result_too_large", None)
    assert (exact["state"], len(exact["result"])) == ("completed", limit - 2)


def test_an_input_that_does_not_fit_fails_without_a_retry(app: App, owner: KeyId, start_worker: StartWorker) -> None:
    task = app.tasks.enqueue(DiagnosticFail(), owner=owner)
    query(app, """UPDATE tasks SET input = '{"mesage": "a typo"}' RETURNING 1""")

    start_worker(threads=1)

    failed = app.tasks.wait(task.public_id, timeout=timedelta(seconds=10))
    assert (failed["state"], failed["error"]["code"]) == ("failed", "input_invalid")
    assert "mesage" in failed["error"]["message"]
    assert "a typo" not in failed["error"]["message"]


def test_a_task_whose_deadline_passed_while_it_waited_is_not_started(
    app: App, owner: KeyId, start_worker: StartWorker
) -> None:
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner)
    query(app, "UPDATE tasks SET deadline_at = now() - interval '1 second' RETURNING 1")

    start_worker(threads=1)

    ended = app.tasks.wait(task.public_id, timeout=timedelta(seconds=10))
    assert (ended["state"], ended["attempt"], ended["error"]["code"]) == ("timed_out", 0, "deadline_exceeded")


def test_a_task_asked_to_stop_before_its_retry_is_cancelled_instead(
    app: App, owner: KeyId, start_worker: StartWorker, tmp_path: Any
) -> None:
    start_worker(threads=1)
    task = app.tasks.enqueue(Park(path=str(tmp_path / "trace"), polls=3, after_s=60.0), owner=owner)
    app.tasks.wait(task.public_id, timeout=timedelta(seconds=0.5))

    assert app.tasks.cancel(task.public_id).took_effect

    assert app.tasks.get(task.public_id)["state"] == "cancelled"
