from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from core.app import App
from core.capabilities.discovery import Discoverer
from core.providers.model import NewProvider
from core.testing import FakeProvider
from tests.core.capabilities.conftest import listing
from tests.headrace.command import Command


@pytest.fixture
def provider(app: App) -> Generator[FakeProvider]:
    """Known as `acme`, and discovered."""
    with FakeProvider() as fake:
        fake.fail("/models", listing("gpt-4o", "vendor/acme-1", "goes"))
        app.providers.add(NewProvider(name="acme", base_url=fake.url))
        discover(app)
        yield fake


def discover(app: App) -> None:
    asyncio.run(Discoverer(app.engine, app.providers, app.capability_copies).discover("acme"))


def test_models_are_listed_with_what_they_can_and_how_old_that_is(headrace: Command, provider: FakeProvider) -> None:
    ran = headrace("models", "list")
    document = headrace("models", "list", "--provider", "acme", "--json").json

    assert "chat vision tools" in next(line for line in ran.out.splitlines() if line.startswith("gpt-4o"))
    assert "provider acme was discovered" in ran.err
    assert [model["id"] for model in document["models"]] == ["goes", "gpt-4o", "vendor/acme-1"]
    assert document["models"][1]["providers"] == ["acme"]
    assert document["providers"][0]["models"] == 3


def test_one_model_is_shown_with_sources_and_price(headrace: Command, provider: FakeProvider) -> None:
    ran = headrace("models", "show", "gpt-4o")

    assert "chat       yes by name, " in ran.out
    assert "audio      unknown" in ran.out
    assert '"input_mtok": "2.5"' in ran.out
    assert headrace("models", "show", "vendor/acme-1", "--json").json["pricing"] is None


def test_models_that_went_are_kept_for_who_asks(headrace: Command, app: App, provider: FakeProvider) -> None:
    provider.fail("/models", listing("gpt-4o"))
    discover(app)

    assert [model["model"] for model in headrace("models", "list", "--gone", "--json").json["gone"]] == [
        "goes",
        "vendor/acme-1",
    ]
    assert headrace("models", "show", "goes").code == 4


def test_a_refresh_prints_the_task(headrace: Command, provider: FakeProvider) -> None:
    made = headrace("models", "refresh", "--json").json["tasks"]

    assert [task["provider"] for task in made] == ["acme"]
    assert made[0]["task_id"] in headrace("models", "refresh", "--provider", "acme").out
    assert headrace("models", "refresh", "--provider", "nobody").code == 4


def test_an_override_counts_until_it_is_taken_back(headrace: Command, provider: FakeProvider) -> None:
    def chat() -> tuple[str, str | None]:
        found = headrace("models", "show", "vendor/acme-1", "--json").json["capabilities"]["chat"]
        return found["answer"], found["source"]

    assert headrace("models", "override", "vendor/acme-1", "chat", "no", "--note", "refuses").code == 0
    assert chat() == ("no", "override")
    assert headrace("models", "override", "vendor/acme-1", "chat", "--remove").code == 0
    assert chat() == ("unknown", None)
    assert headrace("models", "override", "vendor/acme-1", "chat", "--remove").code == 4
    assert headrace("models", "override", "vendor/acme-1", "chat").code == 2
    assert headrace("models", "override", "vendor/acme-1", "flight", "no").code == 2
