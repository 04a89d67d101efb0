"""`/v1/admin/providers` against a real web process."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from core.testing import FakeProvider, Fault
from tests.web.serving import Caller, Reply, Site

PATH = "/v1/admin/providers"
KEY = "sk-canary-admin-77e0"


@pytest.fixture
def admin(own_site: Site) -> Caller:
    key = own_site.app.settings.admin_key
    assert key is not None
    return own_site.caller.with_key(key.get_secret_value())


@pytest.fixture
def guest(site: Site) -> Caller:
    """An operator of the shared site, who leaves nothing behind."""
    key = site.app.settings.admin_key
    assert key is not None
    return site.caller.with_key(key.get_secret_value())


@pytest.fixture
def fake() -> Generator[FakeProvider]:
    with FakeProvider() as server:
        yield server


def patch(caller: Caller, name: str, body: bytes) -> Reply:
    return caller.send("PATCH", f"{PATH}/{name}", body, {"Content-Type": "application/json"})


def test_a_provider_is_made_shown_changed_and_forgotten_and_its_key_is_never_told(
    admin: Caller, own_site: Site
) -> None:
    body = {"name": "openai", "base_url": "https://host/v1/", "api_key": KEY, "models": ["gpt-*"], "priority": 5}

    made = admin.post(PATH, body)
    shown = admin.get(made.headers["location"])
    changed = patch(admin, "openai", b'{"enabled": false, "models": []}')
    listed = admin.get(PATH)

    assert (made.status, shown.status, changed.status, listed.status) == (201, 200, 200, 200)
    assert made.json == shown.json
    assert {key: made.json[key] for key in ("base_url", "api_key", "priority", "models", "enabled", "version")} == {
        "base_url": "https://host/v1",
        "api_key": "sealed",
        "priority": 5,
        "models": ["gpt-*"],
        "enabled": True,
        "version": 1,
    }
    assert (changed.json["enabled"], changed.json["models"], changed.json["api_key"]) == (False, [], "sealed")
    assert [row["name"] for row in listed.json["providers"]] == ["openai"]
    assert made.headers["cache-control"] == "no-store"
    assert KEY.encode() not in made.body + shown.body + changed.body + listed.body
    assert patch(admin, "openai", b'{"api_key": null}').json["api_key"] == "none"
    assert admin.send("DELETE", f"{PATH}/openai").status == 204
    assert admin.get(f"{PATH}/openai").status == 404
    assert KEY not in own_site.web.text()


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"name": None}, 422, "name"),
        ({"name": "A b"}, 422, "name"),
        ({"name": 3}, 422, "name"),
        ({"base_url": "ftp://host"}, 422, "base_url"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, 422, "base_url"),
        ({"base_url": f"https://host/v1?key={KEY}"}, 422, "base_url"),
        ({"kind": "other"}, 422, "kind"),
        ({"api_key": f"{KEY} {KEY}"}, 422, "api_key"),
        ({"api_key": KEY, "api_key_env": "X"}, 422, "api_key_env"),
        ({"api_key_env": "HEADRACE_KEY_PEPPER"}, 422, "api_key_env"),
        ({"priority": -1}, 422, "priority"),
        ({"priority": "1"}, 422, "priority"),
        ({"models": ["a*b"]}, 422, "models[0]"),
        ({"models": "gpt-*"}, 422, "models"),
        ({"enabled": "yes"}, 422, "enabled"),
        ({"api_keys": KEY}, 422, "api_keys"),
    ],
)
def test_a_bad_field_is_named_and_no_key_is_repeated(
    guest: Caller, change: dict[str, Any], status: int, field: str
) -> None:
    reply = guest.post(PATH, {"name": "p", "base_url": "https://host/v1", **change})

    assert (reply.status, reply.json["field"]) == (status, field)
    assert KEY.encode() not in reply.body
    assert guest.get(f"{PATH}/p").status == 404


def test_a_taken_name_is_a_conflict_and_a_missing_one_not_found(admin: Caller) -> None:
    body = {"name": "p", "base_url": "https://host/v1"}
    admin.post(PATH, body)

    assert (admin.post(PATH, body).status, admin.post(PATH, body).json["code"]) == (409, "provider_exists")
    assert patch(admin, "nobody", b"{}").status == 404
    assert admin.send("DELETE", f"{PATH}/nobody").status == 404
    assert admin.post(f"{PATH}/nobody/test").status == 404


def test_a_trial_lists_models_with_the_key_and_pays_for_nothing(admin: Caller, fake: FakeProvider) -> None:
    admin.post(PATH, {"name": "p", "base_url": fake.url, "api_key": KEY})

    good = admin.post(f"{PATH}/p/test")
    fake.fail("/models", Fault(status=401, body=f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    bad = admin.post(f"{PATH}/p/test")

    assert (good.status, good.json["ok"], good.json["models"]) == (200, True, 4)
    assert 0 <= good.json["latency_ms"] < 10_000
    assert (bad.status, bad.json["ok"], bad.json["code"], bad.json["models"]) == (200, False, "provider_auth", None)
    assert KEY.encode() not in good.body + bad.body
    assert {(call.method, call.path) for call in fake.calls} == {("GET", "/v1/models")}
    assert fake.calls[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_trial_of_a_provider_that_cannot_be_called_says_why(admin: Caller, fake: FakeProvider) -> None:
    url = fake.url
    fake.close()
    admin.post(PATH, {"name": "gone", "base_url": url})
    admin.post(PATH, {"name": "keyless", "base_url": url, "api_key_env": "NOT_SET_ANYWHERE"})

    gone, keyless = admin.post(f"{PATH}/gone/test").json, admin.post(f"{PATH}/keyless/test").json

    assert (gone["ok"], gone["code"]) == (False, "provider_unavailable")
    assert (keyless["ok"], keyless["code"]) == (False, "provider_not_configured")
    assert "NOT_SET_ANYWHERE" in keyless["error"]


def test_nobody_enters_with_a_virtual_key(site: Site) -> None:
    for path in (PATH, f"{PATH}/p"):
        assert site.caller.get(path).status == 401
    assert site.caller.post(f"{PATH}/p/test").status == 401
    assert site.caller.post(PATH, b"{").status == 401
