from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.app import App
from core.settings import Settings
from core.task_types.diagnostic import DiagnosticNoop
from tests.headrace.command import Command
from tests.support.waiting import wait_until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Grüße"}]}


@pytest.fixture
def owner(app: App) -> str:
    """The only key there is."""
    return app.keys.create("tests").key_id


def test_an_enqueued_task_is_shown_as_it_was_accepted(headrace: Command, app: App, owner: str) -> None:
    accepted = headrace("tasks", "enqueue", "chat.completion", "--input", json.dumps(CHAT), "--json")
    shown = headrace("tasks", "show", accepted.json["id"], "--json")

    assert accepted.code == shown.code == 0
    assert shown.json == accepted.json
    assert (shown.json["state"], shown.json["type"]) == ("pending", "chat.completion")
    assert app.tasks.get(accepted.json["id"], owner=owner) == accepted.json


def test_every_option_of_enqueue_reaches_the_task(headrace: Command, app: App, owner: str) -> None:
    headrace("queues", "add", "nightly")
    run_at = datetime.now(UTC) + timedelta(hours=1)

    ran = headrace(
        *("tasks", "enqueue", "diagnostic.noop", "--input", '{"payload": "x"}', "--queue", "nightly"),
        *("--priority", "9", "--run-at", run_at.isoformat(), "--max-attempts", "7", "--deadline-s", "60"),
        *("--metadata", '{"order": 17}', "--owner", owner, "--json"),
    )

    task = ran.json
    assert (task["queue"], task["priority"], task["max_attempts"]) == ("nightly", 9, 7)
    assert datetime.fromisoformat(task["run_at"]) == run_at
    assert task["metadata"] == {"order": 17}


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_input_is_read_from_a_file_or_from_stdin(headrace: Command, owner: str, tmp_path: Path, source: str) -> None:
    body = json.dumps(CHAT).encode()
    path = tmp_path / "input.json"
    path.write_bytes(body)

    named = str(path) if source == "file" else "-"
    ran = headrace("tasks", "enqueue", "chat.completion", "--input-file", named, "--json", stdin=body)

    assert ran.code == 0
    assert ran.json["type"] == "chat.completion"


def test_the_same_idempotency_key_is_the_same_task(headrace: Command, owner: str) -> None:
    words = ("tasks", "enqueue", "diagnostic.noop", "--idempotency-key", "order-17", "--json")

    first, second = headrace(*words), headrace(*words)
    other = headrace(*words, "--priority", "1")

    assert first.json["id"] == second.json["id"]
    assert other.code == 1
    assert "Idempotency-Key" in other.err


def test_without_a_key_the_command_says_how_to_make_one(headrace: Command, app: App) -> None:
    ran = headrace("tasks", "enqueue", "diagnostic.noop")

    assert ran.code == 1
    assert "headrace keys create" in ran.err


def test_with_several_keys_the_owner_must_be_named(headrace: Command, app: App, owner: str) -> None:
    other = app.keys.create("another").key_id

    unnamed = headrace("tasks", "enqueue", "diagnostic.noop")
    named = headrace("tasks", "enqueue", "diagnostic.noop", "--owner", other)
    app.keys.disable(other)
    alone_again = headrace("tasks", "enqueue", "diagnostic.noop")

    assert unnamed.code == 1
    assert "--owner" in unnamed.err
    assert named.code == alone_again.code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("enqueue", "no.such.type"), "no.such.type"),
        (("enqueue", "diagnostic.noop", "--input", "{"), "input is not JSON"),
        (("enqueue", "diagnostic.noop", "--input", '{"payload": NaN}'), "input is not JSON"),
        (("enqueue", "diagnostic.noop", "--input", '{"payload": 5}'), "input.payload"),
        (("enqueue", "diagnostic.noop", "--input", "[]"), "input"),
        (("enqueue", "diagnostic.noop", "--metadata", "[1]"), "metadata"),
        (("enqueue", "diagnostic.noop", "--queue", "nowhere"), "nowhere"),
        (("enqueue", "diagnostic.noop", "--priority", "10"), "priority"),
        (("enqueue", "diagnostic.noop", "--run-at", "tomorrow"), "run_at"),
        (("enqueue", "diagnostic.noop", "--run-at", "2026-01-31T12:00:00"), "run_at"),
        (("enqueue", "diagnostic.noop", "--deadline-s", "inf"), "deadline_s"),
        (("enqueue", "diagnostic.noop", "--deadline-s", "0"), "deadline_s"),
        (("enqueue", "diagnostic.noop", "--max-attempts", "0"), "max_attempts"),
        (("enqueue", "diagnostic.noop", "--owner", "nobody"), "nobody"),
        (("list", "--limit", "0"), "limit"),
        (("list", "--cursor", "§"), "cursor"),
    ],
)
def test_a_refused_command_is_one_line_that_names_the_field(
    headrace: Command, app: App, owner: str, words: tuple[str, ...], told: str
) -> None:
    ran = headrace("tasks", *words)

    assert (ran.code, ran.out) == (1, "")
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    assert app.tasks.list().tasks == []


@pytest.mark.parametrize(
    "words",
    [
        ("enqueue",),
        ("enqueue", "diagnostic.noop", "--input", "{}", "--input-file", "-"),
        ("enqueue", "diagnostic.noop", "--input-file", "/no/such/file"),
        ("enqueue", "diagnostic.noop", "--priority", "high"),
        ("list", "--state", "sleeping"),
        ("explode",),
    ],
)
def test_wrong_usage_exits_2(headrace: Command, words: tuple[str, ...]) -> None:
    assert headrace("tasks", *words).code == 2


@pytest.mark.parametrize("verb", ["show", "cancel", "retry"])
@pytest.mark.parametrize("task_id", ["task_" + "0" * 32, "junk\x1b[31m"])
def test_an_unknown_task_exits_4_on_every_verb(headrace: Command, verb: str, task_id: str) -> None:
    ran = headrace("tasks", verb, task_id)

    assert (ran.code, ran.out) == (4, "")
    assert "no task" in ran.err
    assert "\x1b" not in ran.err


def test_an_absent_database_exits_3_and_a_setting_that_cannot_work_exits_2(
    headrace: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    absent = headrace("tasks", "list")
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "mysql://nobody@127.0.0.1:1/none")
    misconfigured = headrace("tasks", "list")

    assert absent.code == 3
    assert "database" in absent.err
    assert misconfigured.code == 2
    assert "DATABASE_URL" in misconfigured.err


def test_pages_of_the_list_hold_each_task_once_newest_first(headrace: Command, app: App, owner: str) -> None:
    accepted = [app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id for _ in range(5)]

    first = headrace("tasks", "list", "--limit", "3", "--json").json
    second = headrace("tasks", "list", "--limit", "3", "--cursor", first["next_cursor"], "--json").json

    listed = [task["id"] for page in (first, second) for task in page["tasks"]]
    assert listed == accepted[::-1]
    assert second["next_cursor"] is None


def test_the_list_is_filtered_and_shows_whole_ids(headrace: Command, app: App, owner: str) -> None:
    wanted = app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id
    cancelled = app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id
    app.tasks.cancel(cancelled)

    pending = headrace("tasks", "list", "--state", "pending", "--type", "diagnostic.noop", "--queue", "default").out
    of_nobody = headrace("tasks", "list", "--owner", "nobody", "--json").json

    assert wanted in pending
    assert cancelled not in pending
    assert of_nobody == {"tasks": [], "next_cursor": None}


def test_a_cancelled_task_can_be_cancelled_again_and_retried(headrace: Command, app: App, owner: str) -> None:
    task_id = app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id

    too_early = headrace("tasks", "retry", task_id)
    cancelled = headrace("tasks", "cancel", task_id, "--json")
    again = headrace("tasks", "cancel", task_id)
    retried = headrace("tasks", "retry", task_id, "--json")

    assert too_early.code == 1
    assert "pending" in too_early.err
    assert cancelled.json["took_effect"] is True
    assert cancelled.json["task"]["state"] == "cancelled"
    assert again.code == 0
    assert "is cancelled" in again.out
    assert retried.json["retry_of"] == task_id


def test_waiting_for_a_task_that_is_cancelled_exits_1_with_the_final_task(
    headrace: Command, app: App, owner: str
) -> None:
    def cancel_it() -> None:
        (task,) = wait_until(lambda: app.tasks.list().tasks)
        app.tasks.cancel(task.public_id)

    elsewhere = threading.Thread(target=cancel_it)
    elsewhere.start()
    ran = headrace("tasks", "enqueue", "diagnostic.noop", "--wait", "--json")
    elsewhere.join()

    assert ran.code == 1
    assert ran.json["state"] == "cancelled"
    assert "is cancelled" in ran.err


def test_waiting_without_a_worker_ends_with_the_timeout(headrace: Command, owner: str) -> None:
    ran = headrace("tasks", "enqueue", "diagnostic.noop", "--wait", "--timeout-s", "0.2", "--json")

    assert ran.code == 3
    assert ran.json["state"] == "pending"
    assert "is a worker running?" in ran.err


def test_watching_tells_each_change_and_ends_with_the_final_task(headrace: Command, app: App, owner: str) -> None:
    task_id = app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id
    app.tasks.cancel(task_id)

    ran = headrace("tasks", "show", task_id, "--watch")

    assert ran.code == 0
    assert "cancelled, attempt 0 of 3" in ran.err
    assert task_id in ran.out


def test_text_of_a_task_cannot_move_the_cursor(headrace: Command, app: App, owner: str, settings: Settings) -> None:
    metadata = {"note": "\x1b[2J[red]gone"}
    task_id = app.tasks.enqueue(DiagnosticNoop(), owner=owner, metadata=metadata).public_id

    shown = headrace("tasks", "show", task_id).out

    assert "\x1b" not in shown
    assert "[red]gone" in shown
