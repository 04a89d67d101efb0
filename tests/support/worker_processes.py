"""Real worker processes for tests, as the Procfile starts them; nothing is left running when the test ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.app import App
from core.connections import autocommit
from core.settings import Settings, child_environment
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]


class Workers:
    """A supervisor in a process group of its own."""

    def __init__(self, app: App, settings: Settings, arguments: list[str], log: Path) -> None:
        self._app = app
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers", *arguments],
                env=child_environment(settings),
                cwd=CHECKOUT,
                stderr=stream,
                start_new_session=True,
            )

    def pids(self, *, solo: bool = False) -> list[int]:
        """Children that are registered and live."""
        pattern = "headrace-worker-solo" if solo else "headrace-worker-_"
        rows = query(
            self._app, "SELECT pid FROM workers WHERE died_at IS NULL AND name LIKE :name ORDER BY name", name=pattern
        )
        return [row[0] for row in rows if is_running(row[0])]

    def await_children(self, count: int) -> list[int]:
        return wait_until(
            lambda: pids if len(pids := self.pids()) >= count else [], 30, what=f"{count} worker processes"
        )

    def stop(self) -> int:
        """SIGTERM to the supervisor; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill_all(self) -> None:
        pids = {row[0] for row in query(self._app, "SELECT pid FROM workers")}
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(is_running(pid) for pid in pids), 5, what="children die with the supervisor")


@contextmanager
def running_workers(app: App, *arguments: str, log: Path, **settings: Any) -> Generator[Workers]:
    """
    Start `python -m workers` on the app's servers.

    Args:
        settings: fields of Settings that differ, e.g. `worker_processes=2`.
    """
    workers = Workers(app, app.settings.model_copy(update=settings), list(arguments), log)
    try:
        yield workers
    finally:
        if workers.process.poll() is None:
            workers.process.kill()
        workers.process.wait()


def query(app: App, statement: str, **values: Any) -> list[Any]:
    with autocommit(app.engine).connect() as connection:
        return list(connection.execute(sa.text(statement), values))


def is_running(pid: int) -> bool:
    """Zombies do not count."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    return False


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
