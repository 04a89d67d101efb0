"""The README's blocks marked `<!-- run: ... -->`, run as a reader would: in order, beside a real `headrace up`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from core.app import App
from core.settings import PREFIX, Settings, child_environment
from core.testing import FakeProvider
from headrace.demo.deployment import free_port
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

CURL = f"""#!{sys.executable}
# Stands for curl where there is none: -sS -i -H NAME:VALUE -d BODY URL, and nothing else.
import sys
from urllib.request import Request, urlopen
words, headers, body, head, url = sys.argv[1:], {{}}, None, False, ""
while words:
    word = words.pop(0)
    if word == "-H":
        name, _, value = words.pop(0).partition(": ")
        headers[name] = value
    elif word == "-d":
        body = words.pop(0).encode()
    elif word == "-i":
        head = True
    elif word != "-sS":
        url = word
with urlopen(Request("http://" + url, body, headers), timeout=60) as response:
    if head:
        print(f"HTTP/1.1 {{response.status}} {{response.reason}}", response.headers, sep="\\n")
    print(response.read().decode())
"""

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", README, re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody at a shell: a directory, an environment, a port."""

    directory: Path
    environ: dict[str, str]
    port: int

    def run(self, *words: str) -> str:
        ran = subprocess.run(
            words, cwd=self.directory, env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def sh(self, text: str) -> str:
        return self.run("sh", "-eu", "-c", text.replace("localhost:8000", f"127.0.0.1:{self.port}"))


@contextmanager
def running(words: list[str], *, cwd: Path, environ: dict[str, str]) -> Generator[subprocess.Popen[bytes]]:
    """A process that is stopped by SIGTERM at the end, and must then exit 0."""
    process = subprocess.Popen(words, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as response:
            return bool(response.status == 200)
    except URLError:
        return False


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Generator[Reader]:
    directory = tmp_path_factory.mktemp("reader")
    for kind, name in (("types", "acme_types.py"), ("handlers", "acme_handlers.py")):
        (text,) = blocks(kind)
        (directory / name).write_text(text)
    port = free_port("127.0.0.1")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}:{directory}"
    curl = directory / "curl"  # last on PATH
    curl.write_text(CURL)
    curl.chmod(0o755)
    environ["PYTHONPATH"] = f"{directory}:{ROOT}"
    with FakeProvider() as provider:
        environ |= {"HEADRACE_TASK_MODULES": "acme_types", "HEADRACE_PROVIDER_URL": provider.url}
        with running(["headrace", "up", "--port", str(port)], cwd=directory, environ=environ):
            wait_until(lambda: is_ready(port), 100, what="headrace up is ready")
            yield Reader(directory, environ, port)


def test_the_first_task_by_curl(reader: Reader) -> None:
    accept, poll = blocks("sh")[:2]

    accepted = reader.sh(accept)
    task = json.loads(reader.sh(poll))

    assert "202 Accepted" in accepted
    assert f"location: /v1/tasks/{task['id']}" in accepted.lower()
    assert (task["type"], task["state"]) == ("chat.completion", "completed")


def test_the_first_task_from_python(reader: Reader) -> None:
    (script,) = blocks("python")

    assert reader.run(sys.executable, "-c", script).startswith("completed ")


def test_the_commands(reader: Reader) -> None:
    (commands,) = blocks("sh")[2:]

    said = reader.sh(commands)

    assert "completed, attempt 1 of 3" in said
    assert re.search(r"^task_[0-9a-f]{32}\s+embedding\s+completed", said, re.MULTILINE)
    assert re.search(r"^hr_\w{12}_", said, re.MULTILINE)


def test_a_task_type_of_ones_own(reader: Reader) -> None:
    owner = json.loads(reader.run("headrace", "keys", "list", "--json"))["keys"][0]["key_id"]
    words = ["tasks", "enqueue", "acme.shout", "--input", '{"text": "hello"}', "--owner", owner, "--wait", "--json"]

    assert json.loads(reader.run("headrace", *words))["result"] == {"text": "HELLO"}


def test_each_line_of_the_procfile_runs_by_itself(settings: Settings, app: App) -> None:
    """On servers that are given by URL, as on a platform; the README's table has the same lines."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line)
    environ = child_environment(settings.model_copy(update={"port": free_port("127.0.0.1")}))
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    key = app.keys.create("platform").clear_key

    release = subprocess.run(shlex.split(lines["release"]), cwd=ROOT, env=environ, timeout=60, check=False)
    with ExitStack() as stack:
        for name in ("web", "worker", "scheduler"):
            stack.enter_context(running(shlex.split(lines[name]), cwd=ROOT, environ=environ))
        port = int(environ["HEADRACE_PORT"])
        wait_until(lambda: is_ready(port), 60, what="web is ready")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = json.dumps({"type": "diagnostic.noop", "input": {}}).encode()
        with urlopen(Request(f"http://127.0.0.1:{port}/v1/tasks", body, headers), timeout=10) as response:
            address = response.headers["Location"]
        with urlopen(Request(f"http://127.0.0.1:{port}{address}?wait=30", headers=headers), timeout=40) as response:
            task = json.load(response)

    assert release.returncode == 0
    assert task["state"] == "completed"
    for name, command in lines.items():
        assert f"| `{name}` | `{command}` |" in README


def test_every_link_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
