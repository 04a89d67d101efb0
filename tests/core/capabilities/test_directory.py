"""What a process remembers: how fresh it is without any announcement, and what it costs to ask."""

from __future__ import annotations

import time
from collections.abc import Generator

import pytest
from pydantic import SecretStr

from core.app import App, open_app
from core.capabilities.directory import FRESH_S, Capabilities, ModelCannot
from core.capabilities.model import Ability, Answer
from core.errors import InvalidRequest, StoreUnavailable
from core.task_types.chat_completion import ChatCompletion
from core.task_types.embedding import Embedding
from core.testing import FakeProvider
from tests.core.capabilities.conftest import Discover, listing
from tests.support.waiting import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(app: App, clock: Clock) -> Generator[Capabilities]:
    """As in a process that hears no announcement at all."""
    opened = Capabilities(app.engine, app.capability_copies, app.providers.list, clock=clock)
    yield opened
    opened.close()


def chat(model: str) -> ChatCompletion:
    return ChatCompletion(model=model, messages=[{"role": "user", "content": "hi"}])


def lists(directory: Capabilities, model: str) -> bool:
    return bool(directory.current().listed(model))


def test_with_every_message_lost_a_new_list_is_served_within_five_seconds(
    provider: FakeProvider, discover: Discover, directory: Capabilities, clock: Clock
) -> None:
    provider.fail("/models", listing("one"))
    discover()
    assert lists(directory, "one")
    provider.fail("/models", listing("one", "two"))
    discover()

    assert not lists(directory, "two")
    clock.now += FRESH_S + 0.1

    assert lists(directory, "two")


def test_accepting_alone_keeps_the_memory_fresh(
    app: App, acme: str, discover: Discover, directory: Capabilities, clock: Clock
) -> None:
    discover()
    directory.refresh()
    app.capability_overrides.set("fake-chat", Ability.CHAT, Answer.NO)
    directory.check(chat("fake-chat"))
    clock.now += FRESH_S + 0.1

    def is_refused() -> bool:
        try:
            directory.check(chat("fake-chat"))
        except ModelCannot as error:
            return error.field == "input.model"
        return False

    wait_until(is_refused, what="the override is known")


def test_a_producer_in_python_is_told_at_its_first_task(app: App, provider: FakeProvider, discover: Discover) -> None:
    provider.fail("/models", listing("text-embedding-3-small"))
    discover()
    owner = app.keys.create("producer").key_id

    with open_app(app.settings) as fresh:
        with pytest.raises(InvalidRequest, match="cannot do chat: known by its name") as refused:
            fresh.tasks.enqueue(chat("text-embedding-3-small"), owner=owner)
        assert refused.value.field == "input.model"
        fresh.tasks.enqueue(Embedding(model="text-embedding-3-small", input="hello"), owner=owner)


def test_with_the_database_away_the_last_reading_serves_on(
    app: App, discover: Discover, directory: Capabilities, clock: Clock
) -> None:
    discover()
    directory.refresh()
    away = app.settings.model_copy(update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")})
    with open_app(away) as unreachable:
        lost = Capabilities(unreachable.engine, app.capability_copies, unreachable.providers.list, clock=clock)
        with pytest.raises(StoreUnavailable):
            lost.current()
        lost.check(chat("fake-chat"))
        lost.close()
    provider_rows = app.providers.list
    broken = False

    def read() -> object:
        if broken:
            raise StoreUnavailable("the database did not answer")
        return provider_rows()

    known = Capabilities(app.engine, app.capability_copies, read, clock=clock)  # type: ignore[arg-type]  # hands rows on
    known.refresh()
    broken = True
    clock.now += FRESH_S + 0.1

    assert lists(known, "fake-chat")


def test_asking_before_a_task_costs_next_to_nothing(
    provider: FakeProvider, discover: Discover, directory: Capabilities
) -> None:
    provider.fail("/models", listing(*(f"model-{number}" for number in range(1000)), "text-embedding-3-small"))
    discover()
    directory.refresh()
    inputs = [chat("model-7"), Embedding(model="text-embedding-3-small", input="hello"), chat("unlisted")]
    for input in inputs:
        directory.check(input)

    best_us = {}
    for input in inputs:
        rounds: list[float] = []
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(100):
                directory.check(input)
            rounds.append(time.perf_counter() - started)
        best_us[input.task_type, getattr(input, "model", "")] = min(rounds) / 100 * 1e6

    # 0.5 µs for a model that is listed, 13 µs for one that nobody lists; an accept takes some hundred.
    assert all(took < 50 for took in best_us.values()), best_us
