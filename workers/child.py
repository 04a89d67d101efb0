"""
`python -m workers.child`: one worker process, started by the supervisor and never by hand.

Its settings come complete from the environment. Exit status: 0 stopped, 1 stopped without writing everything, 2 the
settings cannot work, 70 a thread died, 75 declared dead, 76 a handler could not be ended.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from uuid import UUID, uuid5

from setproctitle import setproctitle

from core.app import App, build_app
from core.errors import Misconfigured, StoreUnavailable
from core.ids import WorkerId
from core.logs import configure_logging
from core.settings import load_settings
from core.supervision import MISCONFIGURED
from workers.process import End, WorkerProcess

logger = logging.getLogger(__name__)

_STOPPED = End(0, "asked to stop")


def worker_id_of(supervisor: UUID, pid: int) -> WorkerId:
    """The id of the worker process `pid` of this supervisor: both sides know it without telling each other."""
    return WorkerId(uuid5(supervisor, str(pid)))


@dataclass(frozen=True, slots=True)
class _Arguments:
    supervisor: UUID
    name: str
    solo: bool


def main(arguments: Sequence[str]) -> int:
    given = _parse(arguments)
    setproctitle(f"headrace-{given.name}")
    parent = os.getppid()
    signals = _Signals()
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, format=settings.log_format, process=given.name)
        app = build_app(settings)
        if not _wait_for_database(app, signals):
            return 0
        process = WorkerProcess(
            app,
            worker_id=worker_id_of(given.supervisor, os.getpid()),
            name=f"headrace-{given.name}",
            solo=given.solo,
            parent=parent,
        )
    except Misconfigured as error:
        print(error, file=sys.stderr)  # noqa: T201 (what the command says)
        return MISCONFIGURED
    signals.pass_to(process)
    app.caches.start()
    try:
        return process.run()
    except StoreUnavailable as error:
        logger.error("%s", error)
        return 1
    finally:
        app.caches.close()


class _Signals:
    """SIGTERM and SIGINT: before there is a process to end, and after. The second is the same as the first."""

    def __init__(self) -> None:
        self._early: SimpleQueue[None] = SimpleQueue()
        self._process: WorkerProcess | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def pass_to(self, process: WorkerProcess) -> None:
        self._process = process
        if self.came_within(0.0):
            process.end(_STOPPED)

    def came_within(self, timeout_s: float) -> bool:
        try:
            self._early.get(timeout=timeout_s) if timeout_s else self._early.get_nowait()
        except Empty:
            return False
        return True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._process is None:
            self._early.put(None)
        else:
            self._process.end(_STOPPED)


def _wait_for_database(app: App, signals: _Signals) -> bool:
    """False when asked to stop before it answered."""
    pause_s, told = 0.1, False
    while True:
        try:
            app.check()
            return True
        except StoreUnavailable:
            if not told:
                logger.warning("waiting for the database")
            told = True
        if signals.came_within(pause_s):
            return False
        pause_s = min(pause_s * 2, 2.0)


def _parse(arguments: Sequence[str]) -> _Arguments:
    parser = argparse.ArgumentParser(prog="python -m workers.child", description=__doc__)
    parser.add_argument("--supervisor", type=UUID, required=True, help="id of the supervisor's life")
    parser.add_argument("--number", type=int, default=1)
    parser.add_argument("--solo", action="store_true", help="run only tasks that crashed twice, then end")
    parsed = parser.parse_args(arguments)
    name = "worker-solo" if parsed.solo else f"worker-{parsed.number}"
    return _Arguments(parsed.supervisor, name, parsed.solo)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # Threads that could not be ended must not keep the process: everything worth keeping is written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
