"""When a task ends, its copies in every process are replaced (the seed's AsyncTaskCacheInvalidationHandler)."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from core.app import App
from core.tasks.model import TaskState
from tests.support.waiting import wait_until
from tests.web.moves import claim, finish, progress
from tests.web.serving import NOOP, Caller, running_web

WITHOUT_AN_EVENT_S = 1.0  # so long a live copy would answer if nobody replaced it


@pytest.fixture
def callers(app: App, tmp_path: Path) -> Generator[list[Caller]]:
    key = app.keys.create("two processes").clear_key
    with (
        running_web(app.settings, tmp_path / "first.log") as first,
        running_web(app.settings, tmp_path / "second.log") as second,
    ):
        yield [Caller(web.url, key).keep() for web in (first, second)]


def _says(caller: Caller, path: str, state: TaskState) -> bool:
    return str(caller.get(path).json["state"]) == state


@pytest.mark.parametrize("state", [state for state in TaskState if state.is_final])
def test_both_processes_answer_the_end_of_a_task_as_soon_as_it_is_told(
    app: App, callers: list[Caller], state: TaskState
) -> None:
    for _ in range(5):
        task_id = callers[0].enqueue(NOOP)
        path = f"/v1/tasks/{task_id}"
        claimed = claim(app)
        for caller in callers:
            assert caller.get(path).json["state"] == "processing"

        finish(app, claimed, state)
        told_at = time.monotonic()
        for caller in callers:
            wait_until(partial(_says, caller, path, state), 2, every=0.001)

        assert time.monotonic() - told_at < WITHOUT_AN_EVENT_S / 2


def test_progress_of_one_task_drops_no_copy_of_another(app: App, callers: list[Caller]) -> None:
    ended = callers[0].enqueue(NOOP)
    finish(app, claim(app))
    for caller in callers:
        caller.get(f"/v1/tasks/{ended}")
    callers[0].enqueue(NOOP)
    running = claim(app)

    for percent in range(20):
        progress(app, running, percent)
        for caller in callers:
            assert caller.get(f"/v1/tasks/{ended}").headers["headrace-status-from"] == "memory"
