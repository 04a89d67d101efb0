"""`headrace up` as a person runs it: a process of its own, told by signals, judged by what it leaves behind."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from core.embedded import Servers
from core.settings import Settings, child_environment
from headrace.cli.up import ready_block
from tests.support.databases import fresh_database
from tests.support.processes import ROOT, command_lines, is_running, processes_naming
from tests.support.waiting import wait_until

HEADRACE = [sys.executable, "-m", "headrace.cli.main"]
READY_S = 60


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**clean, "PYTHONPATH": str(ROOT), **more}


class Up:
    """One `headrace up` in a process group of its own."""

    def __init__(self, data_dir: Path, *words: str, **environ: str) -> None:
        self.data_dir = data_dir
        self._errors = data_dir.with_name("up.log")
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*HEADRACE, "up", "--port", "0", "--data-dir", str(data_dir), *words],
                cwd=data_dir.parent,
                env=environment(**environ),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                process_group=0,
            )

    @property
    def log(self) -> str:
        return self._errors.read_text()

    def ready(self) -> tuple[str, str]:
        """The two lines of the ready block."""
        assert self.process.stdout is not None
        first, second = self.process.stdout.readline(), self.process.stdout.readline()
        assert first, self.log
        return first, second

    def pids(self) -> set[int]:
        """Its process and all below it, with the servers and their keeper."""
        found = {self.process.pid} | set(processes_naming(str(self.data_dir)))
        record = self.data_dir / "servers.json"
        if record.exists():
            found.add(json.loads(record.read_text())["keeper"])
        while True:
            below = {pid for pid in command_lines() if parent_of(pid) in found}
            if below <= found:
                return found
            found |= below


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def gone(pids: set[int]) -> bool:
    """None of them is left within 5 s."""
    return wait_until(lambda: not [pid for pid in pids if is_running(pid)], 5, what="nothing left")


def titled(up: Up, words: str) -> list[int]:
    """Processes below `up` whose title or command line holds the words."""
    lines = command_lines()
    return [pid for pid in up.pids() if words in lines.get(pid, "")]


def run_curl(line: str) -> tuple[int, Any]:
    """Do what the curl line says: this machine may have no curl."""
    words = shlex.split(line)
    headers = dict(value.split(": ", 1) for flag, value in itertools.pairwise(words) if flag == "-H")
    url = urlsplit(next(word for word in words if word.startswith("http")))
    connection = HTTPConnection(str(url.hostname), url.port, timeout=10)
    connection.request("POST", url.path, body=words[words.index("-d") + 1], headers=headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def get(line: str, path: str) -> Any:
    """Ask for a path with the key of the curl line."""
    words = shlex.split(line)
    url = urlsplit(next(word for word in words if word.startswith("http")))
    connection = HTTPConnection(str(url.hostname), url.port, timeout=40)
    connection.request("GET", path, headers={"Authorization": words[words.index("-H") + 1].split(": ", 1)[1]})
    return json.loads(connection.getresponse().read())


def answers(line: str) -> bool:
    try:
        return run_curl(line)[0] == 202
    except OSError:
        return False


Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    begun: list[Up] = []

    def start(*words: str, **environ: str) -> Up:
        begun.append(Up(tmp_path / "var", *words, **environ))
        return begun[-1]

    yield start
    for up in begun:
        up.process.kill()
        up.process.communicate()


@pytest.mark.timeout(180)
def test_the_curl_line_works_and_sigterm_to_the_group_stops_everything_with_0(start: Start, tmp_path: Path) -> None:
    up = start("--workers", "2")
    first, curl = up.ready()
    status, task = run_curl(curl)

    assert status == 202
    assert get(curl, f"/v1/tasks/{task['id']}?wait=30")["state"] == "completed"

    pids = up.pids()
    os.killpg(up.process.pid, signal.SIGTERM)
    assert up.process.wait(35) == 0
    assert not [command_lines()[pid] for pid in pids if is_running(pid)]
    assert up.process.stdout is not None
    assert up.process.stdout.read() == ""

    again = start()
    key = first.split("first key ")[1].split(";")[0]
    assert key in again.ready()[0]
    assert (tmp_path / "var/first-key").stat().st_mode & 0o077 == 0
    assert key not in up.log
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(35) == 0


@pytest.mark.timeout(180)
def test_what_is_killed_comes_back_and_kill_9_of_up_leaves_nothing(start: Start) -> None:
    up = start()
    _, curl = up.ready()
    keeper = json.loads((up.data_dir / "servers.json").read_text())["keeper"]

    (web,) = titled(up, "headrace-web")
    os.kill(web, signal.SIGKILL)
    wait_until(lambda: not is_running(web) and answers(curl), 30, what="web is back", every=0.1)

    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not is_running(keeper) and answers(curl), 60, what="servers are back", every=0.2)

    pids = up.pids()
    up.process.kill()
    assert gone(pids)


def test_a_second_up_exits_2_and_names_the_first(start: Start) -> None:
    first = start()
    first.ready()

    second = subprocess.run(
        [*HEADRACE, "up", "--data-dir", str(first.data_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert second.returncode == 2
    assert f"pid {first.process.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert second.stdout == ""


def test_other_commands_find_the_running_servers(start: Start) -> None:
    up = start()
    up.ready()

    listed = subprocess.run(
        [*HEADRACE, "keys", "list", "--json"],
        env=environment(HEADRACE_DATA_DIR=str(up.data_dir)),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert '"first"' in listed.stdout
    assert up.process.poll() is None


def test_a_port_in_use_exits_2_with_one_line_and_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]

        done = subprocess.run(
            [*HEADRACE, "up", "--port", str(port), "--data-dir", str(tmp_path / "var")],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "var/postgres").exists()


@pytest.mark.parametrize("stage", ["up.pid", "secrets.json", "servers.json", "first-key"])
def test_a_signal_while_it_starts_exits_0_and_leaves_nothing(start: Start, stage: str) -> None:
    up = start()
    wait_until((up.data_dir / stage).exists, 30, every=0.002)
    pids = up.pids()

    up.process.terminate()

    assert up.process.wait(30) == 0, up.log
    assert gone(pids)


def test_with_urls_it_runs_on_them_and_starts_no_server(start: Start, servers: Servers, settings: Settings) -> None:
    with fresh_database(servers.database_url, migrated=False) as url:
        given = {name: value for name, value in child_environment(settings).items() if name.startswith("HEADRACE_")}
        given |= {"HEADRACE_DATABASE_URL": url, "HEADRACE_DIAGNOSTIC_TASKS": "true"}
        for name in ("HEADRACE_DATA_DIR", "HEADRACE_PORT"):
            del given[name]
        up = start(**given)
        _, curl = up.ready()

        status, task = run_curl(curl)
        done = get(curl, f"/v1/tasks/{task['id']}?wait=30")
        up.process.terminate()

        assert status == 202
        assert done["state"] == "completed"
        assert up.process.wait(35) == 0
        assert not (up.data_dir / "postgres").exists()


def test_without_diagnostics_the_curl_line_asks_for_a_chat() -> None:
    block = ready_block("http://127.0.0.1:1", "hr_x", diagnostics=False)

    assert '"type": "chat.completion"' in block
    assert len(block.splitlines()) == 2


def test_help_needs_no_server_no_broker_and_no_web_framework() -> None:
    heavy = ("dramatiq", "apscheduler", "fastapi", "openai", "sqlalchemy", "redis")
    code = f"""
import contextlib, sys
from headrace.cli.main import main
with contextlib.suppress(SystemExit):
    main(["--help"])
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"
    for group in ("up", "demo", "tasks", "keys"):
        assert group in done.stdout
