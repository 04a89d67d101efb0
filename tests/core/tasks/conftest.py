"""Rows to work on: an owner, tasks of his, a worker that claims them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.app import App
from core.connections import autocommit
from core.ids import KeyId, PublicId, WorkerId, new_public_id, new_task_id, new_worker_id
from core.tasks import accept, leases
from core.tasks.leases import WorkerRow
from core.tasks.model import NewTask

TYPES = ("diagnostic.noop",)


@pytest.fixture
def connection(app: App) -> Generator[sa.Connection]:
    """Autocommit: every statement is a transaction, as in a worker."""
    with autocommit(app.engine).connect() as opened:
        yield opened


@pytest.fixture
def owner(app: App) -> KeyId:
    return app.keys.create("owner").key_id


def new_task(owner: KeyId, **changes: object) -> NewTask:
    values: dict[str, object] = {
        "id": new_task_id(),
        "public_id": new_public_id(),
        "owner_id": owner,
        "type": TYPES[0],
        "input_json": "{}",
    }
    return NewTask(**(values | changes))  # type: ignore[arg-type]  # a test names only what matters to it


@pytest.fixture
def accepted(connection: sa.Connection, owner: KeyId) -> Callable[..., PublicId]:
    """Accept one task with these changes to the defaults; returns its public id."""

    def accept_one(**changes: object) -> PublicId:
        task = new_task(owner, **changes)
        accept.insert(connection, [task])
        return task.public_id

    return accept_one


@pytest.fixture
def worker(connection: sa.Connection) -> WorkerId:
    return live_worker(connection)


def live_worker(connection: sa.Connection, *, lease: timedelta = timedelta(seconds=30)) -> WorkerId:
    worker_id = new_worker_id()
    leases.register(
        connection,
        WorkerRow(
            id=worker_id,
            name="test",
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=["default"],
            lease_s=lease.total_seconds(),
        ),
    )
    return worker_id
