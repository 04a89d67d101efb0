"""The demo as a newcomer starts it: real servers, real processes, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest

from core.settings import PREFIX
from core.task_types.spec import load_task_types
from core.tasks.model import TaskState
from core.tasks.validation import validate_input
from core.testing import FakeProvider, Fault
from headrace.demo.announced import LEAST, Announced, Json, Models, announce
from tests.support.processes import ROOT, processes_naming
from tests.support.waiting import wait_until

MODELS = Models(chat="m", embedding="e", image="i", video="v")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@contextmanager
def demo(data_dir: Path, *words: str, **environment: str) -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    """The process, in a session of its own, and the file that its output goes to."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    output = data_dir.parent / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli.main", "demo", "--data-dir", str(data_dir), *words],
            cwd=ROOT,
            env={**environ, "COLUMNS": "80", **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def ended(process: subprocess.Popen[bytes], output: Path, data_dir: Path) -> tuple[int, list[str]]:
    """Exit status and lines, once it has ended; fails when it left a process behind."""
    code = process.wait(100)
    wait_until(lambda: not processes_naming(str(data_dir)), 5, what="no process of the demo is left")
    return code, output.read_text().splitlines()


def test_demo_ends_with_every_task_as_announced_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with demo(tmp_path / "var", "--tasks", "12") as (process, output):
        code, lines = ended(process, output, tmp_path / "var")

    text = "\n".join(lines)
    assert (code, lines[-1]) == (0, "demo: 12 tasks, 12 as expected"), text
    assert "llmock (no provider is configured)" in text
    assert re.search(r"\d+ status reads: .*\d+ from memory", text)
    assert time.monotonic() - began < 90


def test_demo_uses_a_configured_provider_tells_broken_promises_and_keeps_running(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with (
        FakeProvider() as provider,
        demo(data_dir, "--tasks", "9", "--keep", HEADRACE_PROVIDER_URL=provider.url) as (process, output),
    ):
        provider.fail("/chat/completions", Fault(status=400), times=None)
        wait_until(lambda: output.read_text().endswith("as expected\n"), 100, what="the demo's last line")
        text = output.read_text()
        asked = provider.count("/chat/completions")
        (address,) = re.findall(r"still running at http://(\S+) until", text)
        with urlopen(f"http://{address}/live", timeout=5) as response:
            alive = response.status
        process.send_signal(signal.SIGINT)
        code, lines = ended(process, output, data_dir)

    assert f"configured provider {provider.url}" in text
    assert asked == 3  # one over Python, one later, one plain
    assert "not as announced: chat 1" in text
    assert (code, lines[-1]) == (1, "demo: 9 tasks, 6 as expected")
    assert alive == 200


def test_ctrl_c_in_the_middle_stops_everything(tmp_path: Path) -> None:
    with demo(tmp_path / "var") as (process, output):
        wait_until(lambda: "processing, attempt 1" in output.read_text(), 100, what="a task that runs")
        os.killpg(process.pid, signal.SIGINT)
        code, lines = ended(process, output, tmp_path / "var")

    assert code == 128 + signal.SIGINT
    assert "headrace: stopping" in lines


def test_every_announced_task_is_valid_input_and_has_a_name_of_its_own() -> None:
    types = load_task_types(diagnostics=True)
    announced = announce(30, MODELS)

    for one in announced:
        validate_input(types.get(one.body["type"]), one.body["input"])
    assert len({one.label for one in announced}) == len(announced) == 30
    assert len(announce(1, MODELS)) == LEAST


def test_without_an_embedding_model_a_chat_takes_its_place() -> None:
    announced = announce(LEAST, Models(chat="m", embedding=None, image="i", video="v"))

    assert len(announced) == LEAST
    assert "embedding" not in {one.body["type"] for one in announced}


def final(**changes: object) -> Json:
    task: Json = {
        "state": "completed",
        "attempt": 1,
        "error": None,
        "result": {"data": [1]},
        "started_at": NOW.isoformat(),
    }
    return {**task, **changes}


ERROR = {"code": "provider_rejected", "message": "no", "retryable": False}


@pytest.mark.parametrize(
    ("announced", "task", "told"),
    [
        (Announced(label="a", body={}), final(), None),
        (Announced(label="a", body={}), final(state="failed", error=ERROR), "provider_rejected"),
        (Announced(label="a", body={}, attempts=2), final(), "1 attempts instead of 2"),
        (Announced(label="a", body={}, ends=TaskState.FAILED), final(), "completed instead of failed"),
        (Announced(label="a", body={}, ends=TaskState.FAILED), final(state="failed"), "without an error"),
        (Announced(label="a", body={}, answers=lambda r: len(r["data"]) > 1), final(), "not an answer"),
        (Announced(label="a", body={}, answers=lambda r: r["choices"][0]), final(), "not an answer"),
        (Announced(label="a", body={}), final(started_at=(NOW - timedelta(seconds=1)).isoformat()), "before its time"),
    ],
)
def test_a_broken_promise_is_told(announced: Announced, task: Json, told: str | None) -> None:
    broken = announced.broken(task, due_at=NOW)

    assert (broken is None) if told is None else (broken is not None and told in broken)


def test_a_second_demo_in_one_directory_is_refused_and_does_not_touch_the_first(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    with (data_dir / "demo.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with demo(data_dir) as (process, output):
            code, lines = ended(process, output, data_dir)

    assert code == 2
    assert lines == [f"headrace: another demo runs in {data_dir}: stop it, or choose another --data-dir"]
    assert [path.name for path in data_dir.iterdir()] == ["demo.lock"]
