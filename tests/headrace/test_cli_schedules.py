"""`headrace schedules`: what is shown before it is saved, what is refused, and what a change leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.app import App
from core.settings import Settings, child_environment
from tests.headrace.command import Command
from tests.support.ticking import ticking
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
NIGHTLY = (
    "nightly",
    "chat.completion",
    "--cron",
    "30 2 * * *",
    "--timezone",
    "Europe/Berlin",
    "--input",
    json.dumps(CHAT),
)


@pytest.fixture(autouse=True)
def owner(app: App) -> str:
    """The only key: nobody has to name it."""
    return app.keys.create("tests").key_id


def names(headrace: Command) -> list[str]:
    return [schedule["name"] for schedule in headrace("schedules", "list", "--json").json["schedules"]]


def test_a_schedule_is_saved_after_its_ten_fires_are_shown(headrace: Command, owner: str) -> None:
    added = headrace("schedules", "add", *NIGHTLY)
    shown = headrace("schedules", "show", "nightly", "--json").json

    assert added.code == 0
    assert added.out.count("02:30:00") + added.out.count("03:00:00") == 10
    assert added.out.index("02:30:00") < added.out.index("is saved")
    assert shown["owner"] == owner
    assert shown["task"] == {"type": "chat.completion", "input": CHAT}
    assert (shown["missed"], shown["overlap"], shown["jitter_s"]) == ("latest", "skip", 0)
    assert len(shown["fires"]) == 10


def test_with_json_nothing_but_the_document_is_printed(headrace: Command) -> None:
    added = headrace("schedules", "add", *NIGHTLY, "--json")

    assert added.json["name"] == "nightly"
    assert len(added.json["fires"]) == 10
    assert added.err == ""


def test_all_that_can_be_said_is_kept(headrace: Command, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text(json.dumps(CHAT))
    options = "--every-s 90 --jitter-s 5 --missed all --overlap queue --queue default --priority 7 --max-attempts 2"
    added = headrace(
        "schedules", "add", "often", "chat.completion", *options.split(), "--deadline-s", "60", "--metadata", '{"a":1}',
        "--input-file", str(tmp_path / "input.json"), "--disabled", "--json",
    ).json  # fmt: skip

    assert added["every_s"] == 90
    assert added["enabled"] is False
    assert (added["jitter_s"], added["missed"], added["overlap"]) == (5, "all", "queue")
    assert added["task"] == {
        "type": "chat.completion",
        "input": CHAT,
        "queue": "default",
        "priority": 7,
        "max_attempts": 2,
        "deadline_s": 60,
        "metadata": {"a": 1},
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cron", "0 0 31 2 *"], "no day that exists"),
        (["--cron", "nonsense"], "cron"),
        (["--cron", "0 0 * * *", "--timezone", "Mars/Olympus"], "timezone"),
        (["--cron", "0 0 * * *", "--every-s", "60"], "cron"),
        ([], "cron"),
        (["--every-s", "0"], "every_s"),
        (["--every-s", "60", "--queue", "nowhere"], "queue"),
        (["--every-s", "60", "--priority", "99"], "priority"),
        (["--every-s", "60", "--owner", "nobody"], "owner"),
        (["--every-s", "60", "--input", "{"], "input"),
        (["--every-s", "60", "--input", "{}"], "input.model"),
        (["--every-s", "60", "--input", "[]"], "input"),
        (["--every-s", "60", "--metadata", "[]"], "metadata"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_and_nothing_is_saved(headrace: Command, words: list[str], told: str) -> None:
    given = [] if "--input" in words else ["--input", json.dumps(CHAT)]
    ran = headrace("schedules", "add", "wrong", "chat.completion", *given, *words)

    assert ran.code == 1
    assert told in ran.err
    assert ran.err.count("\n") == 1
    assert names(headrace) == []


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "x" * 65, "é"])
def test_a_name_that_is_no_name_is_refused(headrace: Command, name: str) -> None:
    ran = headrace("schedules", "add", name, *NIGHTLY[1:])

    assert ran.code == 1
    assert "name" in ran.err


def test_an_unknown_type_and_a_name_that_is_taken_are_refused(headrace: Command) -> None:
    unknown = headrace("schedules", "add", "x", "no.such", "--every-s", "60")
    headrace("schedules", "add", *NIGHTLY)
    again = headrace("schedules", "add", *NIGHTLY)

    assert unknown.code == again.code == 1
    assert "no.such" in unknown.err
    assert "nightly" in again.err


def test_a_preview_saves_nothing(headrace: Command) -> None:
    told = headrace("schedules", "preview", "--cron", "0 12 * * MON", "--timezone", "America/New_York")
    fires = headrace("schedules", "preview", "--every-s", "60", "--json").json["fires"]

    assert told.out.count("12:00:00 E") == 10
    assert len(fires) == 10
    assert headrace("schedules", "preview", "--cron", "0 0 30 2 *").code == 1
    assert names(headrace) == []


def test_an_update_leaves_alone_what_it_does_not_name(headrace: Command, owner: str) -> None:
    headrace("schedules", "add", *NIGHTLY)

    timed = headrace("schedules", "update", "nightly", "--every-s", "3600", "--json").json
    tasked = headrace("schedules", "update", "nightly", "--priority", "9", "--json").json
    nothing = headrace("schedules", "update", "nightly")
    wrong = headrace("schedules", "update", "nightly", "--cron", "0 0 31 2 *")

    assert (timed["cron"], timed["every_s"]) == (None, 3600)
    assert (timed["owner"], timed["task"]["input"]) == (owner, CHAT)
    assert tasked["task"] == {"type": "chat.completion", "input": CHAT, "priority": 9}
    assert tasked["every_s"] == 3600
    assert nothing.code == 2
    assert wrong.code == 1
    assert headrace("schedules", "show", "nightly", "--json").json["every_s"] == 3600


def test_a_disabled_schedule_has_no_fires_until_it_is_enabled(headrace: Command) -> None:
    headrace("schedules", "add", *NIGHTLY)

    disabled = headrace("schedules", "disable", "nightly", "--json").json
    listed = headrace("schedules", "list")
    enabled = headrace("schedules", "enable", "nightly", "--json").json

    assert (disabled["enabled"], disabled["next_due"], disabled["fires"]) == (False, None, [])
    assert "disabled" in listed.out
    assert enabled["next_due"] == enabled["fires"][0]


def test_a_deleted_schedule_is_gone(headrace: Command) -> None:
    headrace("schedules", "add", *NIGHTLY)

    assert headrace("schedules", "delete", "nightly").code == 0
    assert names(headrace) == []


@pytest.mark.parametrize(
    "words", [["show"], ["enable"], ["disable"], ["delete"], ["update", "--jitter-s", "1"]], ids=lambda words: words[0]
)
def test_an_unknown_schedule_exits_4(headrace: Command, words: list[str]) -> None:
    ran = headrace("schedules", words[0], "no-such", *words[1:])

    assert ran.code == 4
    assert "no-such" in ran.err


def test_lists_are_paged_by_name(headrace: Command) -> None:
    for name in ("c", "a", "b"):
        headrace("schedules", "add", name, *NIGHTLY[1:])

    first = headrace("schedules", "list", "--limit", "2", "--json").json
    rest = headrace("schedules", "list", "--cursor", first["next_cursor"], "--json").json

    assert [schedule["name"] for schedule in first["schedules"] + rest["schedules"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None


def test_a_schedule_that_fires_is_shown_with_its_runs_and_tasks(headrace: Command, app: App) -> None:
    headrace("schedules", "add", "often", "diagnostic.noop", "--every-s", "1")

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = headrace("schedules", "show", "often", "--json").json["last_runs"]
        return [run for run in found if run["outcome"] == "enqueued"]

    with ticking(app):
        fired = wait_until(runs, what="a fire")

    assert headrace("tasks", "show", fired[-1]["task_id"]).code == 0
    assert fired[-1]["task_id"] in headrace("schedules", "show", "often").out


@pytest.mark.parametrize(("answer", "saved"), [("y", True), ("", True), ("n", False)])
def test_a_person_at_a_terminal_is_asked(headrace: Command, settings: Settings, answer: str, saved: bool) -> None:
    code, told = at_a_terminal(settings, ["schedules", "add", *NIGHTLY], answer=answer)

    assert "Save nightly?" in told
    assert ("nightly" in names(headrace)) is saved
    assert code == (0 if saved else 1)


def test_a_person_who_said_yes_is_not_asked(headrace: Command, settings: Settings) -> None:
    code, told = at_a_terminal(settings, ["schedules", "add", *NIGHTLY, "--yes"], answer="n")

    assert "Save" not in told
    assert code == 0
    assert names(headrace) == ["nightly"]


def at_a_terminal(settings: Settings, words: list[str], *, answer: str) -> tuple[int, str]:
    """Run a command whose stdin and stderr are a terminal; its exit status, and what the terminal showed."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        process = subprocess.run(
            [sys.executable, "-m", "headrace.cli.main", *words],
            cwd=CHECKOUT,
            env=child_environment(settings),
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        return process.returncode, os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
