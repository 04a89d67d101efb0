"""What a process knows of the providers, and for how long; the rows are real, the clock is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from core.app import App
from core.errors import StoreUnavailable
from core.providers.errors import ProviderFailure
from core.providers.model import NewProvider, ProviderChange, ProviderRow
from core.providers.roster import AWAY_PAUSE_S, FRESH_S, Endpoint, Roster
from core.providers.routing import Router
from core.schema import providers
from core.testing import FakeProvider, Fault
from tests.support.provider_calls import CHAT, TEN_SECONDS
from tests.support.waiting import wait_until


class Watched:
    """A roster over the app's table: counts readings, and can lose the database."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.now = 0.0
        self.readings = 0
        self.asked_models: list[list[str]] = []
        self.is_away = False
        self.models: dict[str, frozenset[str]] = {}
        self.roster = Roster(
            self._read,
            app.providers.api_key,
            read_models=self._read_models,
            answer_limit_bytes=1_000_000,
            clock=lambda: self.now,
        )

    def endpoints(self) -> Sequence[Endpoint]:
        return asyncio.run(self.roster.endpoints())

    def names(self) -> list[str]:
        return [endpoint.name for endpoint in self.endpoints() if endpoint.row.enabled]

    def _read(self) -> Sequence[ProviderRow]:
        if self.is_away:
            raise StoreUnavailable("the database did not answer")
        self.readings += 1
        return self.app.providers.list()

    def _read_models(self, names: Sequence[str]) -> dict[str, frozenset[str]]:
        self.asked_models.append(list(names))
        return {name: self.models[name] for name in names}


@pytest.fixture
def watched(app: App) -> Watched:
    app.providers.add(NewProvider(name="a", base_url="http://a"))
    return Watched(app)


def test_many_calls_cost_one_reading_and_a_change_is_seen_within_five_seconds(watched: Watched) -> None:
    async def many() -> list[Sequence[Endpoint]]:
        return await asyncio.gather(*(watched.roster.endpoints() for _ in range(50)))

    asyncio.run(many())
    for _ in range(100):
        watched.endpoints()
    assert watched.readings == 1

    watched.app.providers.disable("a")
    watched.now += FRESH_S

    assert FRESH_S < 5
    assert watched.names() == []
    assert watched.readings == 2


def test_an_announced_change_is_seen_by_the_next_call(watched: Watched) -> None:
    assert watched.names() == ["a"]

    watched.app.providers.disable("a")
    watched.roster.forget()

    assert watched.names() == []


def test_while_the_database_is_away_the_last_reading_serves_on(watched: Watched) -> None:
    watched.endpoints()
    watched.is_away = True
    watched.now += FRESH_S
    assert watched.names() == ["a"]

    watched.is_away = False
    watched.app.providers.disable("a")
    watched.now += AWAY_PAUSE_S

    assert watched.names() == []


def test_a_process_that_never_read_them_says_so_and_the_task_tries_again(watched: Watched) -> None:
    watched.is_away = True

    with pytest.raises(ProviderFailure) as caught:
        watched.endpoints()

    assert (caught.value.code, caught.value.retryable) == ("provider_unavailable", True)


def test_only_a_change_of_host_or_key_opens_new_connections(watched: Watched) -> None:
    (before,) = watched.endpoints()

    watched.app.providers.update("a", ProviderChange(priority=3, models=("m",)))
    watched.roster.forget()
    (same,) = watched.endpoints()
    watched.app.providers.update("a", ProviderChange(api_key_env="PATH"))
    watched.roster.forget()
    (other,) = watched.endpoints()

    assert same is before
    assert same.row.models == ("m",)
    assert other is not before
    assert before.is_retired


def test_a_key_that_cannot_be_used_takes_its_provider_out_and_the_owner_reads_no_more(watched: Watched) -> None:
    watched.app.providers.remove("a")
    watched.app.providers.add(NewProvider(name="b", base_url="http://b", api_key_env="NOT_SET_CANARY"))

    with pytest.raises(ProviderFailure) as caught:
        asyncio.run(Router(watched.roster.endpoints).chat_completion(CHAT, timeout=TEN_SECONDS))

    assert (caught.value.code, caught.value.retryable) == ("provider_not_configured", True)
    assert "CANARY" not in str(caught.value)


def test_discovered_models_are_read_once_a_discovery_and_only_where_there_is_a_choice(watched: Watched) -> None:
    watched.models = {"a": frozenset({"x"}), "b": frozenset({"y"})}
    discover(watched.app, "a")
    watched.endpoints()
    assert watched.asked_models == []

    watched.app.providers.add(NewProvider(name="b", base_url="http://b"))
    for _ in range(3):
        watched.roster.forget()
        lists = {endpoint.name: endpoint.lists for endpoint in watched.endpoints()}
    assert lists == {"a": frozenset({"x"}), "b": None}
    discover(watched.app, "b")
    watched.roster.forget()

    assert {endpoint.name: endpoint.lists for endpoint in watched.endpoints()} == watched.models
    assert watched.asked_models == [["a"], ["b"]]


def test_connections_of_a_removed_provider_are_closed_when_its_last_call_ends(watched: Watched) -> None:
    router = Router(watched.roster.endpoints)

    async def scene(fake: FakeProvider) -> None:
        fake.fail("/chat", Fault(delay_s=0.3))
        call = asyncio.create_task(router.chat_completion(CHAT, timeout=TEN_SECONDS))
        await asyncio.to_thread(fake.wait_for, lambda server: server.count("/chat/completions") == 1)
        watched.app.providers.remove("a")
        watched.roster.forget()
        await watched.roster.endpoints()
        answer = await call
        assert answer.provider == "a"
        await asyncio.to_thread(wait_until, lambda: connections_to(fake) == 0, what="its connections are closed")

    with FakeProvider() as fake:
        watched.app.providers.update("a", ProviderChange(base_url=fake.url))
        asyncio.run(scene(fake))


def test_idle_connections_of_a_changed_provider_are_closed_by_the_next_reading(watched: Watched) -> None:
    router = Router(watched.roster.endpoints)

    async def scene(fake: FakeProvider) -> None:
        await router.chat_completion(CHAT, timeout=TEN_SECONDS)
        assert connections_to(fake) == 1
        watched.app.providers.update("a", ProviderChange(api_key_env="PATH"))
        watched.roster.forget()
        await watched.roster.endpoints()
        await asyncio.to_thread(wait_until, lambda: connections_to(fake) == 0, what="its connections are closed")

    with FakeProvider() as fake:
        watched.app.providers.update("a", ProviderChange(base_url=fake.url))
        asyncio.run(scene(fake))


def discover(app: App, name: str) -> None:
    with app.engine.begin() as connection:
        connection.execute(providers.update().where(providers.c.name == name).values(discovered_at=sa.func.now()))


def connections_to(fake: FakeProvider) -> int:
    """Established ones of this process, as the kernel has them."""
    port = f":{urlsplit(fake.url).port:04X}"
    rows = (line.split() for line in Path("/proc/self/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return sum(row[2].endswith(port) and row[3] == "01" for row in rows)
