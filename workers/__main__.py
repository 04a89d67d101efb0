"""
`python -m workers [--queues a,b] [--processes N] [--threads N]`: the worker line of the Procfile.

Runs a supervisor over worker processes until SIGTERM or SIGINT; running tasks get HEADRACE_SHUTDOWN_GRACE_S to end,
the rest goes back to the queue. Exit status: 0 stopped, 2 the settings cannot work.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from setproctitle import setproctitle

from core.app import open_app
from core.errors import InvalidRequest, Misconfigured, Unavailable
from core.logs import configure_logging
from core.settings import Settings, load_settings
from core.supervision import MISCONFIGURED
from core.tasks.queues import check_name
from workers.supervisor import WorkerSupervisor


def main(arguments: Sequence[str]) -> int:
    early = _EarlyStop()
    try:
        settings = _settings(arguments)
        setproctitle("headrace-worker-supervisor")
        configure_logging(level=settings.log_level, format=settings.log_format, process="workers")
        with open_app(settings) as app:
            supervisor = WorkerSupervisor(app)
            early.is_over = True
            return supervisor.run()
    except (Misconfigured, InvalidRequest) as error:
        print(error, file=sys.stderr)  # noqa: T201 (what the command says)
        return MISCONFIGURED
    except Unavailable as error:
        print(error, file=sys.stderr)  # noqa: T201 (what the command says)
        return 1


class _EarlyStop:
    """SIGTERM and SIGINT before the supervisor hears them end the process cleanly, and after it change nothing."""

    def __init__(self) -> None:
        self.is_over = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.is_over:
            sys.exit(0)


def _settings(arguments: Sequence[str]) -> Settings:
    """Command line over environment."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Run tasks until stopped.")
    parser.add_argument("--queues", help="comma separated; default: all known queues (HEADRACE_WORKER_QUEUES)")
    parser.add_argument("--processes", type=int, help="worker processes (HEADRACE_WORKER_PROCESSES)")
    parser.add_argument("--threads", type=int, help="tasks a process runs at once (HEADRACE_WORKER_THREADS)")
    given = parser.parse_args(arguments)
    settings = load_settings(worker_queues=given.queues, worker_processes=given.processes, worker_threads=given.threads)
    for name in settings.worker_queues:
        check_name(name)
    return settings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
