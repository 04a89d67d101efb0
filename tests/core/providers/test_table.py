from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import psycopg
import pytest
import redis
import sqlalchemy as sa

from core.app import App
from core.errors import InvalidRequest, ProviderExists, ProviderNotFound, ProviderOfSettings
from core.events.providers import ProviderChanged, channel
from core.providers.model import KeySource, NewProvider, ProviderChange
from core.providers.table import Providers
from core.schema import provider_discoveries, provider_models
from core.sealing import Sealing, Unsealable, new_key
from core.settings import Settings

KEY = "sk-canary-provider-51c7"
NEW = NewProvider(name="openai", base_url="https://host/v1", api_key=KEY, models=("gpt-*", "gpt-*", "o3"))
Open = Callable[..., Providers]


@pytest.fixture
def opened(app: App) -> Open:
    """A table on the test's database, with the settings of one process."""

    def make(
        keys: str | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        url: str | None = None,
        key: str | None = None,
    ) -> Providers:
        return Providers(app.engine, Sealing(keys), (environ or {}).get, default_url=url, default_key=key)

    return make


def test_what_was_added_is_read_back_without_its_key(opened: Open) -> None:
    providers = opened(new_key())

    added = providers.add(NEW)

    assert providers.get("openai") == added
    assert (added.models, added.key_source, added.version) == (("gpt-*", "o3"), KeySource.SEALED, 1)
    assert providers.api_key(added) == KEY
    assert KEY not in repr(added) + repr(added.to_document())


def test_a_sealed_key_is_in_no_row_of_the_database(opened: Open, database: str) -> None:
    opened(new_key()).add(NEW)

    with psycopg.connect(database) as connection:
        dump = b""
        with connection.cursor().copy("COPY (SELECT * FROM providers) TO STDOUT") as copied:
            for chunk in copied:
                dump += bytes(chunk)
        (raw,) = connection.execute("SELECT api_key_sealed FROM providers").fetchone() or (b"",)

    assert b"openai" in dump
    assert KEY.encode() not in dump
    assert KEY.encode() not in bytes(raw)


def test_a_key_survives_the_rotation_of_the_encryption_key(opened: Open) -> None:
    old, new = new_key(), new_key()
    row = opened(old).add(NEW)
    opened(old).add(NewProvider(name="local", base_url="http://127.0.0.1:9"))

    with pytest.raises(Unsealable, match="another HEADRACE_ENCRYPTION_KEY"):
        opened(new).api_key(row)
    both = opened(f"{new},{old}")
    assert both.api_key(both.get("openai")) == KEY
    assert both.reseal() == 1

    only_new = opened(new)
    assert only_new.api_key(only_new.get("openai")) == KEY
    with pytest.raises(Unsealable):
        opened(old).api_key(opened(old).get("openai"))


def test_a_reseal_that_cannot_open_a_key_changes_none(opened: Open) -> None:
    one, two, three = new_key(), new_key(), new_key()
    opened(one).add(NewProvider(name="a", base_url="http://h", api_key="key-a"))
    opened(two).add(NewProvider(name="b", base_url="http://h", api_key="key-b"))

    with pytest.raises(Unsealable):
        opened(f"{three},{one}").reseal()

    assert opened(one).api_key(opened(one).get("a")) == "key-a"


def test_without_an_encryption_key_a_key_is_refused_and_a_variable_is_not(opened: Open) -> None:
    providers = opened(None, environ={"OPENAI_API_KEY": "sk-of-the-environment"})

    with pytest.raises(InvalidRequest, match="HEADRACE_ENCRYPTION_KEY") as caught:
        providers.add(NEW)
    row = providers.add(NewProvider(name="openai", base_url="https://host", api_key_env="OPENAI_API_KEY"))

    assert caught.value.field == "api_key"
    assert providers.api_key(row) == "sk-of-the-environment"
    with pytest.raises(Unsealable, match="OPENAI_API_KEY"):
        opened(None).api_key(row)


def test_a_name_is_taken_once_however_many_ask_at_once(opened: Open) -> None:
    providers = opened(None)
    barrier, outcomes = threading.Barrier(6), list[str]()

    def add() -> None:
        barrier.wait()
        try:
            providers.add(NewProvider(name="p", base_url="http://h"))
            outcomes.append("added")
        except ProviderExists:
            outcomes.append("exists")

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["added"] + ["exists"] * 5


def test_a_change_keeps_what_it_does_not_name(opened: Open) -> None:
    providers = opened(new_key())
    before = providers.add(NEW)

    providers.update("openai", ProviderChange(priority=7))
    providers.disable("openai")
    after = providers.update("openai", ProviderChange(models=()))

    assert (after.priority, after.enabled, after.models, after.version) == (7, False, (), 4)
    assert (after.base_url, after.created_at) == (before.base_url, before.created_at)
    assert providers.api_key(after) == KEY
    assert providers.enable("openai").enabled


def test_a_key_is_replaced_moved_to_the_environment_and_forgotten(opened: Open) -> None:
    providers = opened(new_key(), environ={"K": "from-env"})
    providers.add(NEW)

    found = [
        providers.api_key(providers.update("openai", change))
        for change in (
            ProviderChange(api_key="second"),
            ProviderChange(api_key_env="K"),
            ProviderChange(no_key=True),
        )
    ]

    assert found == ["second", "from-env", None]


@pytest.mark.parametrize("url", ["https://other/v1", "http://host/v1", "https://host:8443/v1"])
def test_a_kept_key_does_not_follow_to_another_host(opened: Open, url: str) -> None:
    providers = opened(new_key())
    providers.add(NEW)

    with pytest.raises(InvalidRequest) as caught:
        providers.update("openai", ProviderChange(base_url=url))

    assert caught.value.field == "api_key"
    assert providers.get("openai").base_url == "https://host/v1"
    assert providers.update("openai", ProviderChange(base_url="https://host:443/v2/")).base_url == "https://host:443/v2"
    assert providers.update("openai", ProviderChange(base_url=url, api_key="its-own")).base_url == url


def test_a_removed_provider_takes_what_was_discovered_along(opened: Open, app: App) -> None:
    providers = opened(None)
    providers.add(NewProvider(name="p", base_url="http://h"))
    insert = provider_models.insert().values(
        provider="p", model="m", abilities="{}", listed=True, first_seen_at=sa.func.now(), last_seen_at=sa.func.now()
    )
    with app.engine.begin() as connection:
        connection.execute(insert)

    providers.remove("p")

    with pytest.raises(ProviderNotFound):
        providers.get("p")
    with pytest.raises(ProviderNotFound):
        providers.remove("p")
    with app.engine.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(provider_models)).scalar() == 0


def test_the_settings_make_a_last_provider_until_a_row_takes_its_name(opened: Open) -> None:
    providers = opened(None, url="http://of.the.settings/v1", key="sk-of-the-settings")
    providers.add(NewProvider(name="p", base_url="http://h", priority=500))

    rows = providers.list()

    assert [(row.name, row.source) for row in rows] == [("p", "table"), ("default", "settings")]
    assert providers.api_key(rows[1]) == "sk-of-the-settings"
    for change in (lambda: providers.disable("default"), lambda: providers.remove("default")):
        with pytest.raises(ProviderOfSettings, match="HEADRACE_PROVIDER_URL"):
            change()
    row = providers.add(NewProvider(name="default", base_url="http://of.a.row", priority=1))
    assert [(found.name, found.base_url) for found in providers.list()] == [
        ("default", "http://of.a.row"),
        ("p", "http://h"),
    ]
    assert providers.api_key(row) is None
    providers.remove("default")
    assert providers.get("default").source == "settings"


def test_what_was_discovered_of_the_provider_of_the_settings_is_known_without_a_row(opened: Open, app: App) -> None:
    insert = provider_discoveries.insert()
    with app.engine.begin() as connection:
        connection.execute(insert.values(provider="default", discovered_at=sa.func.now()))
        connection.execute(insert.values(provider="gone", discovered_at=sa.func.now()))

    (row,) = opened(None, url="http://of.the.settings").list()

    assert row.name == "default"
    assert row.discovered_at is not None
    assert opened(None).list() == []


def test_every_change_is_told_on_the_channel_after_it_was_made(app: App, settings: Settings) -> None:
    assert settings.redis_url is not None
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(channel(settings.instance_name))
        pubsub.get_message(timeout=5)

        app.providers.add(NewProvider(name="p", base_url="http://h"))
        app.providers.disable("p")
        app.providers.remove("p")

        heard: list[ProviderChanged] = []
        while len(heard) < 3:
            message = pubsub.get_message(timeout=5)
            assert message is not None
            event = ProviderChanged.of_json(message["data"])
            if event not in heard:  # it comes once by each of the two servers, which here are one
                heard.append(event)
        pubsub.close()

    assert heard == [ProviderChanged("p", 1), ProviderChanged("p", 2), ProviderChanged("p", 0)]
