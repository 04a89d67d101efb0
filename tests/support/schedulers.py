"""
Real scheduler processes with jobs of a test's own: a package of files that the test writes.

A job's body leaves a line in `marks`: `<due time> <attempt> <pid>`, one per run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.app import App
from core.settings import child_environment
from tests.support.worker_processes import CHECKOUT

PACKAGE = "jobs_of_a_test"

# Arguments: where the package lies, seconds by which this host's clock is wrong, as everything in a
# scheduler sees it that looks at a clock (APScheduler, and the code that gives it a time), the package's name.
_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import datetime as real
import importlib

offset = real.timedelta(seconds=float(sys.argv[2]))

class WrongClock(real.datetime):
    @classmethod
    def now(cls, tz=None):
        return real.datetime.now(tz) + offset

import jobs.__main__ as process

for name in ("schedulers.base", "triggers.interval", "triggers.date", "util"):
    importlib.import_module("apscheduler." + name).datetime = WrongClock
process.datetime = WrongClock
sys.exit(process.main(sys.argv[3]))
"""

_JOB = """
from datetime import timedelta
import os, threading, time
from pathlib import Path
from core.schedules.model import Missed, Overlap
from jobs.spec import JobSpec

MARKS = Path({marks!r})
HERE = Path({directory!r})

def mark(ctx):
    with MARKS.open("a") as marks:
        marks.write(f"{{ctx.due_at.isoformat()}} {{ctx.attempt}} {{os.getpid()}}\\n")

def run(ctx):
    mark(ctx)
{body}

JOB = JobSpec(name={name!r}, run=run, {spec})
"""


class Jobs:
    """The package; a job may come and go between two starts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.package = directory / PACKAGE
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").touch()

    def write(self, name: str, spec: str, body: str = "    return 'done'") -> None:
        """Args: spec: the rest of JobSpec's arguments. body: of `run(ctx)`, after its mark."""
        text = _JOB.format(
            marks=str(self.marks_file(name)),
            directory=str(self.directory),
            body=textwrap.indent(textwrap.dedent(body), "    "),
            name=name,
            spec=spec,
        )
        (self.package / f"{name}.py").write_text(text)

    def rename_away(self, name: str) -> None:
        (self.package / f"{name}.py").rename(self.package / f"{name}.txt")

    def bring_back(self, name: str) -> None:
        (self.package / f"{name}.txt").rename(self.package / f"{name}.py")

    def marks_file(self, name: str) -> Path:
        return self.directory / f"{name}.marks"

    def marks(self, name: str) -> list[tuple[str, int, int]]:
        """(due time, attempt, pid) of each run that began."""
        file = self.marks_file(name)
        rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(due_at, int(attempt), int(pid)) for due_at, attempt, pid in rows]


@contextmanager
def running_scheduler(
    app: App, jobs: Jobs, *, clock_off_s: float = 0, **settings: Any
) -> Generator[subprocess.Popen[bytes]]:
    """
    One more scheduler; killed at the end of the block, whatever state it is in.

    Args:
        settings: fields of Settings that differ.
    """
    environment = child_environment(app.settings.model_copy(update=settings)) | {"PYTHONDONTWRITEBYTECODE": "1"}
    with (jobs.directory / "schedulers.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(jobs.directory), str(clock_off_s), PACKAGE],
            env=environment,
            cwd=CHECKOUT,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
        process.wait()
