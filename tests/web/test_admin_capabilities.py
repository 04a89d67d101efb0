"""`/v1/admin/capabilities`: what operators see, ask for and correct."""

from __future__ import annotations

import pytest

from core.app import App
from core.providers.model import NewProvider
from tests.web.serving import Caller, Site

OVERRIDES = "/v1/admin/capabilities/overrides"
PATHS = [
    ("GET", "/v1/admin/capabilities"),
    ("POST", "/v1/admin/capabilities/refresh"),
    ("POST", OVERRIDES),
    ("DELETE", OVERRIDES),
]


def admin_of(site: Site) -> Caller:
    assert site.app.settings.admin_key is not None
    return site.caller.with_key(site.app.settings.admin_key.get_secret_value())


@pytest.fixture
def admin(site: Site) -> Caller:
    return admin_of(site)


def add_provider(app: App) -> None:
    app.providers.add(NewProvider(name="acme", base_url="http://127.0.0.1:9/v1"))


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_virtual_key_does_not_open_them(site: Site, method: str, path: str) -> None:
    assert site.caller.send(method, path).status == 401


def test_a_refresh_is_a_task_and_a_second_one_shares_it(own_site: Site) -> None:
    admin = admin_of(own_site)
    assert admin.post("/v1/admin/capabilities/refresh", {}).status == 404
    add_provider(own_site.app)

    first = admin.post("/v1/admin/capabilities/refresh", {"provider": "acme"})
    second = admin.post("/v1/admin/capabilities/refresh", {})

    assert (first.status, second.status) == (202, 202)
    assert [task["provider"] for task in first.json["tasks"]] == ["acme"]
    assert first.json["tasks"][0]["task_id"] == second.json["tasks"][0]["task_id"]
    assert not second.json["tasks"][0]["is_new"]
    # The task is the system's: no caller's key sees it.
    assert own_site.caller.get(f"/v1/tasks/{first.json['tasks'][0]['task_id']}").status == 404
    [shown] = admin.get("/v1/admin/capabilities").json["providers"]
    assert (shown["provider"], shown["models"], shown["age_s"]) == ("acme", 0, None)
    assert shown["requested_at"] is not None


@pytest.mark.parametrize(
    ("body", "field"),
    [({"provider": 7}, "provider"), ({"provider": ""}, "provider"), ({"all": True}, "all")],
)
def test_a_wrong_refresh_names_the_field(admin: Caller, body: object, field: str) -> None:
    reply = admin.post("/v1/admin/capabilities/refresh", body)

    assert (reply.status, reply.json["field"]) == (422, field)


def test_an_unknown_provider_is_404(admin: Caller) -> None:
    assert admin.post("/v1/admin/capabilities/refresh", {"provider": "nobody"}).json["code"] == "provider_not_found"


def test_an_override_is_set_shown_replaced_and_taken_back(own_site: Site) -> None:
    admin = admin_of(own_site)
    body = {"model": "vendor/acme-1", "ability": "vision", "answer": "no", "note": "answers as if it saw"}

    made = admin.post(OVERRIDES, body)
    replaced = admin.post(OVERRIDES, {**body, "answer": "yes"})
    shown = admin.get("/v1/admin/capabilities").json["overrides"]

    assert (made.status, replaced.status) == (200, 200)
    assert made.json["provider"] is None
    assert [(entry["model"], entry["answer"], entry["note"]) for entry in shown] == [
        ("vendor/acme-1", "yes", "answers as if it saw")
    ]
    assert admin.post(OVERRIDES, {**body, "provider": "nobody"}).json["code"] == "provider_not_found"
    path = f"{OVERRIDES}?model=vendor%2Facme-1&ability=vision"
    assert admin.send("DELETE", f"{path}&provider=other").json["code"] == "override_not_found"
    assert admin.send("DELETE", path).status == 204
    assert admin.send("DELETE", path).status == 404
    assert admin.get("/v1/admin/capabilities").json["overrides"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ability": "flight"}, "ability"),
        ({"answer": "maybe"}, "answer"),
        ({"model": ""}, "model"),
        ({"model": "with blank"}, "model"),
        ({"model": "m" * 201}, "model"),
        ({"note": "n" * 501}, "note"),
        ({"note": "two\nlines"}, "note"),
        ({"wings": 2}, "wings"),
    ],
)
def test_a_wrong_override_names_the_field(admin: Caller, change: dict[str, object], field: str) -> None:
    reply = admin.post(OVERRIDES, {"model": "m", "ability": "chat", "answer": "no", **change})

    assert (reply.status, reply.json["field"]) == (422, field)


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "model"), ("?model=m", "ability"), ("?model=m&ability=flight", "ability"), ("?mode=m", "mode")],
)
def test_a_wrong_removal_names_the_parameter(admin: Caller, query: str, field: str) -> None:
    reply = admin.send("DELETE", OVERRIDES + query)

    assert (reply.status, reply.json["field"]) == (422, field)


def test_the_internal_task_type_is_unknown_outside(site: Site) -> None:
    reply = site.caller.post("/v1/tasks", {"type": "internal.capability_discovery", "input": {"provider": "acme"}})

    assert (reply.status, reply.json["code"]) == (422, "unknown_task_type")
    assert "internal" not in reply.json["detail"].partition("knows:")[2]
    assert "capability_discovery" not in site.caller.get("/openapi.json").body.decode()
