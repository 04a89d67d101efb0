"""Running workers over several providers that are changed under way."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from core.app import App, open_app
from core.ids import KeyId
from core.providers.model import NewProvider, ProviderChange
from core.providers.table import Providers
from core.sealing import Sealing
from core.settings import Settings
from core.task_types.chat_completion import ChatCompletion
from core.task_types.spec import TaskInput
from core.task_types.video_generation import VideoGeneration
from core.testing import FakeProvider, Fault
from tests.support.waiting import wait_until
from tests.support.worker_processes import query, running_workers

KEY = "sk-canary-of-a-row-8c21"
CHAT = ChatCompletion(model="m", messages=[{"role": "user", "content": "hi"}])
PATH = "/chat/completions"


@pytest.fixture
def app(settings: Settings) -> Generator[App]:
    with open_app(settings.model_copy(update={"lease_s": 4.0, "heartbeat_s": 1.0})) as opened:
        yield opened


@pytest.fixture
def owner(app: App) -> KeyId:
    return app.keys.create("flows").key_id


@pytest.fixture
def first() -> Generator[FakeProvider]:
    with FakeProvider(video_polls=6, poll_after_ms=200) as server:
        yield server


@pytest.fixture
def second() -> Generator[FakeProvider]:
    with FakeProvider(video_polls=6, poll_after_ms=200) as server:
        yield server


@pytest.fixture
def both(app: App, first: FakeProvider, second: FakeProvider) -> None:
    app.providers.add(NewProvider(name="first", base_url=first.url, api_key=KEY, priority=1))
    app.providers.add(NewProvider(name="second", base_url=second.url, priority=2))


def enqueue(app: App, owner: KeyId, input: TaskInput = CHAT) -> str:
    return app.tasks.enqueue(input, owner=owner).public_id


def row_of(app: App, task_id: str) -> Any:
    """(state, attempt, poll_state)"""
    return query(app, "SELECT state, attempt, poll_state FROM tasks WHERE public_id = :id", id=task_id)[0]


def finish(app: App, owner: KeyId) -> Any:
    """One chat, run to its end: (state, attempt, poll_state)."""
    task_id = enqueue(app, owner)
    wait_until(lambda: row_of(app, task_id)[0] in ("completed", "failed"), 30, what="the chat ends")
    return row_of(app, task_id)


@pytest.mark.usefixtures("both")
def test_one_attempt_asks_the_next_provider_only_when_the_first_did_no_work(
    app: App, owner: KeyId, first: FakeProvider, second: FakeProvider, tmp_path: Path
) -> None:
    with running_workers(app, log=tmp_path / "workers.log") as workers:
        assert finish(app, owner)[:2] == ("completed", 1)
        first.fail(PATH, Fault(status=503))
        assert finish(app, owner)[:2] == ("completed", 1)
        assert (first.count(PATH), second.count(PATH)) == (2, 1)

        first.fail(PATH, Fault(cut_after=5))
        assert finish(app, owner)[:2] == ("completed", 2)
        assert (first.count(PATH), second.count(PATH)) == (4, 1)
        text = workers.text()

    assert first.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in second.calls[0].headers
    assert text.count("provider call failed") == 2
    assert "provider=first" in text
    assert KEY not in text


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "message lost"])
def test_a_provider_disabled_under_load_gets_no_call_after_five_seconds(
    app: App, owner: KeyId, first: FakeProvider, second: FakeProvider, tmp_path: Path, *, is_announced: bool
) -> None:
    silent = Providers(app.engine, Sealing(None), lambda _: None)
    with running_workers(app, log=tmp_path / "workers.log"):
        assert finish(app, owner)[:2] == ("completed", 1)

        before = first.count(PATH)
        (app.providers if is_announced else silent).disable("first")
        disabled_at = time.monotonic()
        while second.count(PATH) == 0:
            is_late, calls = time.monotonic() - disabled_at > 5.0, first.count(PATH)
            finish(app, owner)
            assert not is_late or first.count(PATH) == calls
        late = first.count(PATH) - before
        assert late <= 2 or not is_announced, "the message was not heard"
        before = first.count(PATH)
        for _ in range(5):
            finish(app, owner)

    assert first.count(PATH) == before


@pytest.mark.usefixtures("both")
def test_a_video_is_looked_at_where_it_was_ordered_after_another_provider_got_priority(
    app: App, owner: KeyId, first: FakeProvider, second: FakeProvider, tmp_path: Path
) -> None:
    with running_workers(app, log=tmp_path / "workers.log"):
        task_id = enqueue(app, owner, VideoGeneration(prompt="a lake at dawn"))
        wait_until(lambda: '"first"' in str(row_of(app, task_id)[2]), 30, what="the video is parked")

        app.providers.update("second", ProviderChange(priority=0))
        app.providers.disable("first")
        later = enqueue(app, owner, VideoGeneration(prompt="a lake at dusk"))
        wait_until(
            lambda: {row_of(app, each)[0] for each in (task_id, later)} == {"completed"}, 30, what="both are ready"
        )

    assert (first.videos.count, second.videos.count) == (1, 1)
    assert all(call.status == 200 for call in first.calls + second.calls), "a look went to the wrong provider"
