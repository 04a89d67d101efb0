"""What the tests of the workers share: short leases, the probe task types, an owner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from core.app import App, build_app, open_app
from core.ids import KeyId, new_worker_id
from core.settings import Settings
from tests.support.probe_tasks import MODULE
from tests.support.worker_processes import Workers, running_workers
from workers.process import End, WorkerProcess

StartWorkers = Callable[..., AbstractContextManager[Workers]]


@pytest.fixture
def app(settings: Settings) -> Generator[App]:
    """An application with short leases and the probe task types."""
    update = {"lease_s": 4.0, "heartbeat_s": 1.0, "shutdown_grace_s": 10.0, "task_modules": (MODULE,)}
    with open_app(settings.model_copy(update=update)) as opened:
        yield opened


@pytest.fixture
def owner(app: App) -> KeyId:
    return KeyId(app.keys.create(name="workers").key_id)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where probe tasks leave their traces."""
    return tmp_path / "trace"


@pytest.fixture
def start_workers(app: App, tmp_path: Path) -> StartWorkers:
    """`with start_workers(worker_processes=2) as workers:` on the test's servers."""

    def start(*arguments: str, **settings: Any) -> AbstractContextManager[Workers]:
        return running_workers(app, *arguments, log=tmp_path / "workers.log", **settings)

    return start


class WorkerInThread:
    """A whole worker process inside the test's: real threads, real servers, no fork."""

    def __init__(self, app: App, *, threads: int = 4, solo: bool = False, queues: tuple[str, ...] = ()) -> None:
        settings = app.settings.model_copy(update={"worker_threads": threads, "worker_queues": queues})
        self.app = build_app(settings)
        self.process = WorkerProcess(self.app, worker_id=new_worker_id(), name="headrace-worker-1", solo=solo)
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run, name="worker under test", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.status = self.process.run()

    def join(self, timeout_s: float) -> int | None:
        """Wait for its end; the exit status, None while it runs."""
        self._thread.join(timeout_s)
        return self.status

    def stop(self) -> int | None:
        self.process.end(End(0, "the test is over"))
        status = self.join(20)
        self.app.tasks.close()
        self.app.cache.close()
        self.app.bells.link.close()
        self.app.engine.dispose()
        return status


StartWorker = Callable[..., WorkerInThread]


@pytest.fixture
def start_worker(app: App) -> Generator[StartWorker]:
    """`start_worker(threads=1)`: stopped at the end of the test."""
    started: list[WorkerInThread] = []

    def start(**options: Any) -> WorkerInThread:
        started.append(WorkerInThread(app, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()
