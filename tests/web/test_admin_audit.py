"""Every admin request that may change something is written down, without its route doing anything."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from core.embedded import Servers
from core.settings import Settings
from tests.web.proxied import from_address, operator, proxied_site
from tests.web.serving import Caller, Site

PATH = "/v1/admin/audit"
SECRET = "sk-canary-audit-9f3e"


@pytest.fixture(scope="module")
def behind(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    with proxied_site(servers, server_settings, tmp_path_factory.mktemp("audit")) as site:
        yield site


@pytest.fixture
def admin(behind: Site) -> Caller:
    with behind.app.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE audit_log")
    return operator(behind)


def acts(admin: Caller) -> list[dict[str, Any]]:
    reply = admin.get(PATH)
    assert reply.status == 200
    found: list[dict[str, Any]] = reply.json["acts"]
    return found


def test_acts_are_written_down_with_their_route_subject_address_and_outcome(admin: Caller) -> None:
    where = from_address("203.0.113.7")
    provider = {"name": "p", "base_url": "https://host/v1", "api_key": SECRET}
    admin.post("/v1/admin/providers", provider, **where)
    admin.post("/v1/admin/providers", provider)
    patch = json.dumps({"enabled": False}).encode()
    admin.send("PATCH", "/v1/admin/providers/p", patch, {"Content-Type": "application/json"})
    admin.send("DELETE", "/v1/admin/providers/p")
    admin.send("DELETE", "/v1/admin/providers/p")
    admin.post("/v1/admin/providers", {"name": "A b", "api_key": SECRET})
    admin.post("/v1/admin/bans", {"ip": "2001:db8::1", "reason": "x"})
    admin.send("DELETE", "/v1/admin/bans/2001:db8::/64")
    found = acts(admin)

    assert [(act["action"], act["subject"], act["outcome"]) for act in reversed(found)] == [
        ("POST /v1/admin/providers", "p", "201"),
        ("POST /v1/admin/providers", None, "409"),
        ("PATCH /v1/admin/providers/{name}", "p", "200"),
        ("DELETE /v1/admin/providers/{name}", "p", "204"),
        ("DELETE /v1/admin/providers/{name}", "p", "404"),
        ("POST /v1/admin/providers", None, "422"),
        ("POST /v1/admin/bans", "2001:db8::/64", "201"),
        ("DELETE /v1/admin/bans/{ip}", "2001:db8::/64", "204"),
    ]
    assert [act["address"] for act in found] == ["127.0.0.1"] * 7 + ["203.0.113.7"]
    assert {act["actor"] for act in found} == {"admin-key"}
    assert SECRET not in json.dumps(found)


def test_every_mutating_admin_route_of_the_document_is_written_down(admin: Caller) -> None:
    """Also those that somebody adds later."""
    paths = admin.get("/openapi.json").json["paths"]
    mutating = [
        (method.upper(), path)
        for path, operations in paths.items()
        for method in operations
        if path.startswith("/v1/admin/") and method != "get"
    ]
    assert len(mutating) >= 15
    for method, path in mutating:
        admin.send(method, path.replace("{", "").replace("}", ""), b"{", {"Content-Type": "application/json"})

    written: list[str] = []
    cursor = ""
    while True:
        page = admin.get(f"{PATH}?limit=20{cursor}").json
        written += [act["action"] for act in page["acts"]]
        assert all(act["outcome"] for act in page["acts"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(written) == sorted(f"{method} {path}" for method, path in mutating)


def test_reading_and_failed_logins_are_no_acts(admin: Caller, behind: Site) -> None:
    admin.get("/v1/admin/providers")
    admin.send("HEAD", "/v1/admin/providers")
    admin.with_key("wrong").post("/v1/admin/bans", {"ip": "203.0.113.9", "reason": "x"})
    behind.caller.send("DELETE", "/v1/admin/bans/203.0.113.9")
    admin.send("PUT", "/v1/admin/providers")
    admin.post("/v1/admin/nothing")

    assert acts(admin) == []


def test_a_clear_key_in_a_path_is_cut(admin: Caller) -> None:
    key = "hr_3fKq09ZcVb1x_" + "s" * 43 + "_abcdef"
    admin.send("DELETE", f"/v1/admin/providers/{key}")

    assert acts(admin)[0]["subject"] == "hr_3fKq09ZcVb1x_..."


def test_an_act_that_cannot_be_written_down_is_not_done(admin: Caller, behind: Site) -> None:
    with behind.app.engine.connect() as connection, connection.begin():
        # The log cannot be written; the table of providers could.
        connection.exec_driver_sql("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
        reply = admin.post("/v1/admin/providers", {"name": "q", "base_url": "https://host/v1"})

    assert reply.status == 503
    assert "not done" in reply.json["detail"]
    assert admin.get("/v1/admin/providers/q").status == 404


@pytest.mark.parametrize(("query", "field"), [("limit=0", "limit"), ("cursor=x", "cursor"), ("x=1", "x")])
def test_a_bad_parameter_is_named(admin: Caller, query: str, field: str) -> None:
    reply = admin.get(f"{PATH}?{query}")

    assert (reply.status, reply.json["field"]) == (422, field)


def test_nobody_enters_with_a_virtual_key(behind: Site) -> None:
    assert behind.caller.get(PATH).status == 401


def test_the_log_names_no_secret(behind: Site, admin: Caller, tmp_path: Path) -> None:
    admin.post("/v1/admin/providers", {"name": "secretive", "base_url": "https://host/v1", "api_key": SECRET})

    assert SECRET not in behind.web.text()
