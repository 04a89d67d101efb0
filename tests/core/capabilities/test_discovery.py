from __future__ import annotations

import json
import threading
import time
from datetime import timedelta

import pytest
from pydantic import SecretStr

from core.app import App, open_app
from core.capabilities.discovery import Discovered
from core.capabilities.model import Ability, Answer, Source
from core.connections import autocommit
from core.providers.errors import ProviderFailure
from core.providers.model import ProviderChange
from core.testing import FakeProvider, Fault
from tests.core.capabilities.conftest import Discover, listing

BAD: dict[str, Fault] = {
    "down": Fault(status=503),
    "limited": Fault(status=429, retry_after="1"),
    "slow": Fault(delay_s=30),
    "trickling": Fault(trickle_s=0.2),
    "cut": Fault(cut_after=10),
    "not JSON": Fault(body=b"<html>maintenance</html>"),
    "no list": Fault(body=b'{"data": {"id": "gpt-5"}}'),
    "an empty list": Fault(body=b'{"object": "list", "data": []}'),
    "a list of nothing usable": Fault(body=b'{"data": [7, {"id": ""}, {"id": 3}, {"name": "x"}, {"id": "a b"}]}'),
}


def names(app: App) -> list[str]:
    return [name for name, _ in app.capabilities.refresh().models()]


@pytest.mark.parametrize("fault", BAD.values(), ids=BAD.keys())
def test_whatever_goes_wrong_the_last_good_list_is_served_with_its_age_and_the_reason(
    app: App, provider: FakeProvider, discover: Discover, fault: Fault
) -> None:
    provider.fail("/models", listing("gpt-4o", "text-embedding-3-small"))
    discover()
    before = app.capabilities.refresh()
    provider.fail("/models", fault)

    with pytest.raises(ProviderFailure):
        discover()

    after = app.capabilities.refresh()
    stands = after.discoveries["acme"]
    assert names(app) == ["gpt-4o", "text-embedding-3-small"]
    assert stands.discovered_at == before.discoveries["acme"].discovered_at
    assert stands.error
    assert stands.failed_at is not None
    assert after.judge("gpt-4o", Ability.CHAT).as_of == stands.discovered_at
    row = app.providers.get("acme")
    assert (row.discovered_at, row.discovery_error) == (stands.discovered_at, stands.error)


def test_a_provider_that_is_gone_from_the_network_changes_nothing(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    discover()
    provider.close()

    with pytest.raises(ProviderFailure):
        discover()

    assert names(app) == ["fake-chat", "fake-embedding", "fake-image", "fake-video"]


def test_the_next_good_list_clears_the_reason(app: App, provider: FakeProvider, discover: Discover) -> None:
    provider.fail("/models", Fault(status=500))
    with pytest.raises(ProviderFailure):
        discover()
    assert app.capabilities.refresh().discoveries["acme"].error

    discover()

    stands = app.capabilities.refresh().discoveries["acme"]
    assert (stands.error, stands.failed_at) == (None, None)
    assert app.providers.get("acme").discovery_error is None


def test_malformed_entries_are_counted_and_the_others_kept(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    odd: list[object] = [{"id": "a" * 201}, {"id": "with blank "}, {"id": "nul\x00"}, {"id": None}, {}, "x", None]
    body = Fault(body=json.dumps({"data": [{"id": "good"}, *odd, {"id": "good"}]}).encode())
    provider.fail("/models", body)

    found = discover()

    assert (found.models, found.skipped) == (1, 8)
    assert names(app) == ["good"]


def test_a_model_that_went_from_the_list_is_kept_as_a_row_and_comes_back(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    for models in (("old", "kept"), ("kept",)):
        provider.fail("/models", listing(*models))
        discover()

    assert names(app) == ["kept"]
    with autocommit(app.engine).connect() as connection:
        rows = connection.exec_driver_sql("SELECT model, listed FROM provider_models ORDER BY 1").all()
    assert [tuple(row) for row in rows] == [("kept", True), ("old", False)]

    provider.fail("/models", listing("old", "kept"))
    discover()
    assert names(app) == ["kept", "old"]


def test_prices_context_and_abilities_say_where_they_come_from(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    told = {
        "id": "vendor/eyes",
        "created": 1_700_000_000,
        "owned_by": "vendor",
        "context_length": 4096,
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "supported_parameters": ["temperature"],
    }
    provider.fail("/models", listing("gpt-4o", "whisper-1", "text-embedding-3-small", "mystery", told))

    discover()

    snapshot = app.capabilities.refresh()

    def judged(model: str, ability: Ability) -> tuple[Answer, Source | None]:
        found = snapshot.judge(model, ability)
        return found.answer, found.source

    assert judged("gpt-4o", Ability.VISION) == (Answer.YES, Source.NAME)
    assert judged("whisper-1", Ability.AUDIO) == (Answer.YES, Source.GENAI_PRICES)
    assert judged("text-embedding-3-small", Ability.CHAT) == (Answer.NO, Source.NAME)
    assert judged("vendor/eyes", Ability.VISION) == (Answer.YES, Source.PROVIDER)
    assert judged("vendor/eyes", Ability.TOOLS) == (Answer.NO, Source.PROVIDER)
    assert all(judged("mystery", ability) == (Answer.UNKNOWN, None) for ability in Ability)
    (_, gpt), *_ = snapshot.listed("gpt-4o")
    assert gpt.context_tokens == 128_000
    assert gpt.prices is not None
    assert (gpt.prices["source"], gpt.prices["by"]) == ("genai-prices", "model")
    assert gpt.prices["usd"]["input_mtok"] == "2.5"
    (_, eyes), *_ = snapshot.listed("vendor/eyes")
    assert (eyes.context_tokens, eyes.created, eyes.owned_by) == (4096, 1_700_000_000, "vendor")


def test_nothing_but_the_list_is_asked_for(provider: FakeProvider, discover: Discover) -> None:
    discover()

    assert [(call.method, call.path) for call in provider.calls] == [("GET", "/v1/models")]


def test_ten_thousand_models_are_discovered_copied_and_read(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    provider.fail("/models", listing(*(f"vendor/model-{number}-chat" for number in range(10_000))), times=None)
    app.capabilities.refresh()
    discover()

    started = time.monotonic()
    discover()
    took = time.monotonic() - started
    snapshot = app.capabilities.refresh()

    assert len(list(snapshot.models())) == 10_000
    assert snapshot.judge("vendor/model-77-chat", Ability.CHAT).answer is Answer.YES
    assert took < 30  # about 4 s on one core
    copy = app.capability_copies.get("acme", snapshot.lists["acme"].version)
    assert copy is not None
    assert copy.models == snapshot.lists["acme"].models


def test_a_list_that_was_asked_for_earlier_does_not_replace_a_later_one(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    provider.fail("/models", Fault(delay_s=0.5, body=b'{"data": [{"id": "old"}]}'))
    slow = threading.Thread(target=discover)
    slow.start()
    provider.wait_for(lambda known: known.count("/models") == 1)
    provider.fail("/models", listing("new"))
    discover()

    slow.join()

    assert names(app) == ["new"]


def test_a_list_of_what_the_provider_was_before_its_change_is_dropped(
    app: App, provider: FakeProvider, discover: Discover
) -> None:
    found: list[Discovered] = []
    provider.fail("/models", Fault(delay_s=0.5, body=b'{"data": [{"id": "old"}]}'))
    slow = threading.Thread(target=lambda: found.append(discover()))
    slow.start()
    provider.wait_for(lambda known: known.count("/models") == 1)
    app.providers.update("acme", ProviderChange(priority=7))

    slow.join()

    assert [discovered.is_current for discovered in found] == [False]
    assert names(app) == []


def test_with_redis_away_the_rows_are_read(app: App, discover: Discover) -> None:
    discover()
    away = app.settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})

    with open_app(away) as other:
        assert "fake-chat" in names(other)


def test_a_damaged_or_missing_copy_is_filled_from_the_rows(app: App, discover: Discover) -> None:
    discover()
    key = app.capability_copies.key("acme")
    version = app.capabilities.refresh().lists["acme"].version
    for damage in (None, b"nonsense", b'{"version":%d,"models":7}' % version):
        if damage is None:
            app.cache.client.delete(key)
        else:
            app.cache.client.set(key, damage)

        with open_app(app.settings) as other:
            assert "fake-chat" in names(other)


def test_the_copy_in_redis_is_json_for_a_day(app: App, discover: Discover) -> None:
    discover()

    key = f"{app.settings.instance_name}provider_capabilities_acme"
    assert app.cache.client.type(key) == b"string"
    assert timedelta(hours=23).total_seconds() < int(app.cache.client.ttl(key)) <= timedelta(hours=24).total_seconds()
    assert str(app.cache.client.get(key)).startswith('b\'{"version":')


def test_a_removed_provider_leaves_nothing_behind(app: App, discover: Discover) -> None:
    discover()

    app.providers.remove("acme")

    assert names(app) == []
    assert app.cache.client.get(app.capability_copies.key("acme")) is None
    with autocommit(app.engine).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM provider_discoveries").scalar() == 0
