"""`headrace up` as a child of the demo: the same servers, processes and supervision as for anybody else."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from core.errors import Misconfigured, Unavailable
from core.orphans import TiedProcess
from core.settings import Settings, child_environment
from core.supervision import MISCONFIGURED

START_S = 120.0  # first start: initdb, migration and four processes, on a slow machine
STOP_MARGIN_S = 10.0  # beyond its own grace, for the servers
POLL_S = 0.1
TAIL = 12  # lines of the log shown when it does not start


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where it is, the first key, and what curl needs."""

    url: str
    key: str
    log: Path
    up: TiedProcess

    def check(self) -> None:
        """
        Raises:
            Unavailable: it has ended by itself.
        """
        if self.up.poll() is not None:
            raise Unavailable(f"headrace up has ended; see {self.log}")

    def curl(self) -> str:
        return (
            f"curl -sS {self.url}/v1/tasks -H 'Authorization: Bearer {self.key}' "
            '-H \'Content-Type: application/json\' -d \'{"type": "diagnostic.sleep", "input": {"seconds": 1}}\''
        )


@contextmanager
def started_deployment(settings: Settings) -> Generator[Deployment]:
    """
    Run `headrace up` until the block ends; its output goes to `demo.log` in the data directory.

    Raises:
        Misconfigured: it cannot run with these settings, e.g. because another demo does.
        Unavailable: it did not become ready; the message has the last lines of its log.
    """
    chosen = settings if settings.port else settings.model_copy(update={"port": free_port(settings.host)})
    log = chosen.data_dir / "demo.log"
    with log.open("wb") as output:
        up = TiedProcess(
            [sys.executable, "-m", "headrace.cli.main", "up"],
            env=child_environment(chosen),
            death_signal=signal.SIGTERM,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # its ready block holds the key, which belongs in no log
            stderr=output,
        )
    try:
        _await_ready(up, chosen, log)
        key = (chosen.data_dir / "first-key").read_text(encoding="ascii").strip()
        yield Deployment(f"http://{chosen.host}:{chosen.port}", key, log, up)
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(chosen.shutdown_grace_s + STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            up.kill_group()
            up.wait()


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _await_ready(up: TiedProcess, settings: Settings, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _is_ready(settings):
        code = up.poll()
        if code is not None:
            error = Misconfigured if code == MISCONFIGURED else Unavailable
            raise error(f"headrace up ended with status {code}: {_last_words(log)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"headrace up is not ready after {START_S:g} s: {_last_words(log)}")
        time.sleep(POLL_S)


def _is_ready(settings: Settings) -> bool:
    connection = HTTPConnection(settings.host, settings.port, timeout=POLL_S * 20)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " / ".join(line.strip() for line in lines[-TAIL:]) or f"it wrote nothing to {log}"
