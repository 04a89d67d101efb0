"""The scheduler process, run as the Procfile does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import pytest

from core.app import App
from core.connections import autocommit
from core.settings import child_environment
from core.task_types.diagnostic import DiagnosticNoop
from tests.support.waiting import wait_until


@pytest.fixture
def scheduler(app: App) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "jobs"], env=child_environment(app.settings))
    yield process
    process.kill()
    process.wait()


def test_a_due_task_is_made_ready_with_no_worker_about(app: App, scheduler: subprocess.Popen[bytes]) -> None:
    owner = app.keys.create(name="jobs").key_id
    soon = datetime.now(UTC) + timedelta(seconds=1)
    task = app.tasks.enqueue(DiagnosticNoop(), owner=owner, run_at=soon)

    with app.engine.connect() as connection:
        wait_until(
            lambda: connection.exec_driver_sql(
                "SELECT ready FROM tasks WHERE public_id = %(id)s", {"id": task.public_id}
            ).scalar_one(),
            20,
            what="the due task is ready",
        )


def test_sigterm_ends_it_with_status_0_and_twice_is_the_same(app: App, scheduler: subprocess.Popen[bytes]) -> None:
    with autocommit(app.engine).connect() as connection:
        wait_until(
            lambda: connection.exec_driver_sql(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%%advisory%%'"
                " AND pid <> pg_backend_pid()"
            ).first(),
            20,
            what="a sweep",
        )

    scheduler.send_signal(signal.SIGTERM)
    scheduler.send_signal(signal.SIGTERM)

    assert scheduler.wait(15) == 0


def test_a_missing_secret_is_one_line_and_status_2(app: App) -> None:
    environment = child_environment(app.settings)
    del environment["HEADRACE_KEY_PEPPER"]

    ended = subprocess.run(
        [sys.executable, "-m", "jobs"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.returncode == 2
    assert "HEADRACE_KEY_PEPPER" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
