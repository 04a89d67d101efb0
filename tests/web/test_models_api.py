"""GET /v1/models as clients of OpenAI's API see it, and tasks that a model is known not to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import openai
import pytest

from core.app import App
from core.capabilities import store
from core.capabilities.directory import FRESH_S
from core.capabilities.discovery import Discovered, Discoverer
from core.capabilities.model import Ability, Answer, ListedModel
from core.embedded import Servers
from core.providers.model import NewProvider
from core.settings import Settings
from core.testing import FakeProvider
from tests.core.capabilities.conftest import listing
from tests.support.waiting import wait_until
from tests.web.serving import Caller, Site, open_shared_site, running_web

NAMES = ("gpt-4o", "text-embedding-3-small", "vendor/with/slashes", "mystery")
ROUNDS = 10


@contextmanager
def acme(app: App) -> Generator[FakeProvider]:
    """A provider that lists NAMES, known to the application."""
    with FakeProvider() as fake:
        fake.fail("/models", listing(*NAMES), times=None)
        app.providers.add(NewProvider(name="acme", base_url=fake.url))
        yield fake


def discover(app: App) -> Discovered:
    return asyncio.run(Discoverer(app.engine, app.providers, app.capability_copies).discover("acme"))


def sees(caller: Caller, model: str) -> bool:
    return caller.get(f"/v1/models/{model}").status == 200


def knowing(site: Site) -> Caller:
    """A client of the site, which has found acme's models."""
    discover(site.app)
    wait_until(lambda: sees(site.caller, "mystery"), what="the web process knows the models")
    return site.caller


@pytest.fixture(scope="module")
def models(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Caller]:
    """A client of a site that knows the models, for tests that change nothing about them."""
    directory = tmp_path_factory.mktemp("models")
    with open_shared_site(servers, server_settings, directory) as site, acme(site.app):
        yield knowing(site)


@pytest.fixture
def own_models(own_site: Site) -> Generator[Caller]:
    with acme(own_site.app):
        yield knowing(own_site)


def test_the_official_client_lists_and_retrieves_models(models: Caller) -> None:
    with openai.OpenAI(base_url=f"{models.url}/v1", api_key=models.key, max_retries=0) as client:
        listed = list(client.models.list())
        found = {name: client.models.retrieve(name) for name in NAMES}

        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody/has-this")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="hr_wrong").models.list()

    assert [model.id for model in listed] == sorted(NAMES)
    for name, model in found.items():
        assert (model.id, model.object, model.owned_by) == (name, "model", "acme")
        assert abs(time.time() - model.created) < 600
    assert found["gpt-4o"].model_extra is not None
    assert found["gpt-4o"].model_extra["context_tokens"] == 128_000


def test_each_ability_has_an_answer_a_source_and_an_age(models: Caller) -> None:
    reply = models.get("/v1/models/text-embedding-3-small")

    can = reply.json["capabilities"]
    assert set(can) == {ability.value for ability in Ability}
    assert (can["embeddings"]["answer"], can["embeddings"]["source"]) == ("yes", "name")
    assert (can["chat"]["answer"], can["chat"]["source"]) == ("no", "name")
    assert all(0 <= found["age_s"] < 600 for found in can.values())
    assert reply.json["pricing"]["usd"] == {"input_mtok": "0.02"}
    unknown = models.get("/v1/models/mystery").json
    assert {found["answer"] for found in unknown["capabilities"].values()} == {"unknown"}
    assert unknown["pricing"] is None


def test_models_are_behind_the_door(models: Caller) -> None:
    for path in ("/v1/models", "/v1/models/gpt-4o"):
        assert models.with_key("").get(path).status == 401
    assert models.get("/v1/models?limit=2").status == 422
    assert models.get("/v1/models/none").json["code"] == "model_not_found"


def chat(model: str, **more: object) -> dict[str, object]:
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
    return {"type": "chat.completion", "input": body}


def test_a_task_its_model_is_known_not_to_do_is_refused_with_the_reason(models: Caller) -> None:
    reply = models.post("/v1/tasks", chat("text-embedding-3-small"))

    assert reply.status == 422
    assert (reply.json["code"], reply.json["field"]) == ("model_cannot", "input.model")
    assert "text-embedding-3-small cannot do chat: known by its name" in reply.json["detail"]
    batch = models.post("/v1/tasks/batch", {"tasks": [chat("gpt-4o"), chat("text-embedding-3-small")]})
    assert (batch.status, batch.json["field"]) == (422, "tasks[1].input.model")
    wrong = {"type": "embedding", "input": {"model": "gpt-4o", "input": "x"}}
    assert models.post("/v1/tasks", wrong).status == 422


def test_a_schedule_of_a_task_that_its_model_cannot_do_is_refused(own_site: Site, own_models: Caller) -> None:
    assert own_site.app.settings.admin_key is not None
    admin = own_models.with_key(own_site.app.settings.admin_key.get_secret_value())
    body = {"name": "nightly", "cron": "30 2 * * *", "owner": own_site.key_id, "task": chat("text-embedding-3-small")}

    for path in ("/v1/admin/schedules", "/v1/admin/schedules/preview"):
        reply = admin.post(path, body)
        assert reply.status == 422, reply
        assert (reply.json["code"], reply.json["field"]) == ("model_cannot", "task.input.model")
        assert "text-embedding-3-small cannot do chat: known by its name" in reply.json["detail"]

    assert admin.get("/v1/admin/schedules/nightly").status == 404
    assert admin.post("/v1/admin/schedules", {**body, "task": chat("mystery")}).status == 201


@pytest.mark.parametrize("model", ["gpt-4o", "mystery", "nobody-lists-this"])
def test_what_is_unknown_passes(models: Caller, model: str) -> None:
    assert models.post("/v1/tasks", chat(model)).status == 202


def test_tools_and_pictures_are_asked_for_by_the_input(own_site: Site, own_models: Caller) -> None:
    for ability in (Ability.TOOLS, Ability.VISION):
        own_site.app.capability_overrides.set("mystery", ability, Answer.NO)
    tools = chat("mystery", tools=[{"type": "function", "function": {"name": "f"}}])
    part = {"type": "image_url", "image_url": {"url": "https://host/picture.png"}}
    picture = chat("mystery", messages=[{"role": "user", "content": [part]}])
    calls = [{"role": "assistant", "tool_calls": []}, {"role": "user", "content": "hi"}]

    wait_until(lambda: own_models.post("/v1/tasks", tools).status == 422, what="the first override is known")
    wait_until(lambda: own_models.post("/v1/tasks", picture).status == 422, what="the second override is known")

    reply = own_models.post("/v1/tasks", picture)
    assert reply.status == 422
    assert "cannot do vision: the operator said so" in reply.json["detail"]
    assert own_models.post("/v1/tasks", chat("mystery", messages=calls)).status == 202


def test_an_override_opens_what_a_name_had_closed_and_its_removal_closes_it(own_site: Site, own_models: Caller) -> None:
    overrides = own_site.app.capability_overrides
    refused = chat("text-embedding-3-small")

    overrides.set("text-embedding-3-small", Ability.CHAT, Answer.YES, provider="acme")
    wait_until(lambda: own_models.post("/v1/tasks", refused).status == 202, what="the override is known")
    overrides.remove("text-embedding-3-small", Ability.CHAT, provider="acme")
    wait_until(lambda: own_models.post("/v1/tasks", refused).status == 422, what="its removal is known")


def test_no_of_one_provider_does_not_count_while_another_may(own_site: Site, own_models: Caller) -> None:
    with FakeProvider() as other:
        own_site.app.providers.add(NewProvider(name="zeta", base_url=other.url))

        # Nobody knows what the second one lists.
        wait_until(
            lambda: own_models.post("/v1/tasks", chat("text-embedding-3-small")).status == 202, what="zeta is known"
        )
        own_site.app.providers.disable("zeta")
        wait_until(
            lambda: own_models.post("/v1/tasks", chat("text-embedding-3-small")).status == 422, what="zeta is disabled"
        )


def test_two_processes_serve_a_new_model_when_it_is_announced(own_site: Site, own_models: Caller) -> None:
    """How soon is measured by `dev.py bench capabilities`."""
    log = own_site.web.log.with_name("second.log")
    with running_web(own_site.app.settings, log) as second:
        callers = [own_site.caller.keep(), Caller(second.url, own_site.caller.key).keep()]
        for caller in callers:
            wait_until(partial(sees, caller, "mystery"), what="both know the models")
        for number in range(ROUNDS):
            name = f"new-{number}"
            announce_one_more(own_site.app, name)
            for caller in callers:
                # Half of what a process takes that heard nothing: twenty looks in a row would not be that lucky.
                wait_until(partial(sees, caller, name), FRESH_S / 2, what=name)


def announce_one_more(app: App, name: str) -> None:
    """A list with one more model, committed and announced."""
    with app.engine.begin() as connection:
        asked_at = store.now(connection)
        version = app.providers.get("acme").version
        models = [ListedModel(id=known, findings={}) for known in sorted({*NAMES, name})]
        assert store.save(connection, "acme", models, asked_at=asked_at, row_version=version)
        found = store.load(connection, "acme", asked_at)
        copy = found.to_json()
    app.capability_copies.announce(found, copy)
