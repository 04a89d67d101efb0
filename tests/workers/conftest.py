"""What the tests of the workers share: short leases, the probe task types, an owner."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from core.app import App, open_app
from core.ids import KeyId
from core.settings import Settings
from tests.support.probe_tasks import MODULE
from tests.support.worker_processes import Workers, running_workers

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
