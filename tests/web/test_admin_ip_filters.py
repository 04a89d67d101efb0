"""`/v1/admin/ip-filters` against a real web process, which follows them itself."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from core.embedded import Servers
from core.settings import Settings
from tests.web.proxied import from_address, operator, proxied_site
from tests.web.serving import Caller, Reply, Site

PATH = "/v1/admin/ip-filters"


@pytest.fixture(scope="module")
def behind(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    with proxied_site(servers, server_settings, tmp_path_factory.mktemp("filters")) as site:
        yield site


@pytest.fixture
def admin(behind: Site) -> Generator[Caller]:
    """Leaves no rule behind: an allow rule would shut the next test out."""
    caller = operator(behind)
    yield caller
    with behind.app.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM ip_filters WHERE cidr <> '192.0.2.255/32'")
    # The process hears of nothing here, but follows its own changes.
    made = caller.post(PATH, {"action": "deny", "cidr": "192.0.2.255"}).json
    caller.send("DELETE", f"{PATH}/{made['id']}")


def patch(caller: Caller, id: str, body: dict[str, Any]) -> Reply:
    return caller.send("PATCH", f"{PATH}/{id}", json.dumps(body).encode(), {"Content-Type": "application/json"})


def checked(admin: Caller, ip: str, key_id: str | None = None) -> dict[str, Any]:
    reply = admin.get(f"{PATH}/check?ip={ip}" + (f"&key_id={key_id}" if key_id else ""))
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.json
    return found


def test_a_rule_is_made_shown_changed_and_removed_and_the_door_follows_at_once(admin: Caller) -> None:
    made = admin.post(PATH, {"action": "deny", "cidr": "203.0.113.0/24", "note": "scrapers"})
    shown = admin.get(made.headers["location"])
    refused = admin.get("/v1/admin/jobs", **from_address("203.0.113.7"))
    changed = patch(admin, made.json["id"], {"enabled": False})
    allowed = admin.get("/v1/admin/jobs", **from_address("203.0.113.7"))

    assert (made.status, shown.status, changed.status) == (201, 200, 200)
    assert made.json == shown.json
    assert {name: made.json[name] for name in ("action", "cidr", "key_id", "enabled", "note", "version")} == {
        "action": "deny",
        "cidr": "203.0.113.0/24",
        "key_id": None,
        "enabled": True,
        "note": "scrapers",
        "version": 1,
    }
    assert (refused.status, refused.json["code"]) == (403, "address_refused")
    assert (changed.json["enabled"], changed.json["note"], changed.json["version"]) == (False, "scrapers", 2)
    assert allowed.status == 200
    assert admin.send("DELETE", f"{PATH}/{made.json['id']}").status == 204
    assert admin.get(f"{PATH}/{made.json['id']}").status == 404


def test_the_filter_comes_before_the_key_and_after_the_ban(admin: Caller) -> None:
    admin.post(PATH, {"action": "deny", "cidr": "203.0.113.0/24"})

    assert (
        admin.with_key("wrong").get("/v1/admin/jobs", **from_address("203.0.113.7")).json["code"] == "address_refused"
    )
    admin.post("/v1/admin/bans", {"ip": "203.0.113.7", "reason": "x"})
    assert admin.get("/v1/admin/jobs", **from_address("203.0.113.7")).json["code"] == "banned"


def test_the_check_says_what_decided(admin: Caller, behind: Site) -> None:
    key_id = behind.app.keys.create("k").key_id
    deny = admin.post(PATH, {"action": "deny", "cidr": "203.0.113.7"}).json["id"]
    allow = admin.post(PATH, {"action": "allow", "cidr": "203.0.113.0/24", "key_id": key_id}).json["id"]

    assert checked(admin, "203.0.113.7") == {"allowed": False, "rule": deny, "action": "deny", "scope": "global"}
    assert checked(admin, "203.0.113.8", key_id) == {
        "allowed": True,
        "rule": allow,
        "action": "allow",
        "scope": "key",
    }
    assert checked(admin, "2001:db8::1", key_id) == {"allowed": False, "rule": None, "action": None, "scope": "key"}
    assert checked(admin, "2001:db8::1") == {"allowed": True, "rule": None, "action": None, "scope": None}
    assert checked(admin, "::ffff:203.0.113.7")["rule"] == deny


def test_an_allow_rule_shuts_out_who_is_not_named(admin: Caller) -> None:
    admin.post(PATH, {"action": "allow", "cidr": "10.0.0.0/8"})

    # Loopback too: filters know no exemption, so the next request of this operator is refused.
    assert admin.get(PATH).status == 403
    assert admin.get(PATH, **from_address("10.1.2.3")).status == 200

    rules = admin.get(PATH, **from_address("10.1.2.3")).json["ip_filters"]
    removed = admin.send("DELETE", f"{PATH}/{rules[0]['id']}", headers=from_address("10.1.2.3"))
    assert removed.status == 204


def test_a_rule_for_a_key_becomes_one_for_everybody_by_null(admin: Caller, behind: Site) -> None:
    key_id = behind.app.keys.create("k").key_id
    made = admin.post(PATH, {"action": "deny", "cidr": "203.0.113.0/24", "key_id": key_id}).json

    assert admin.get(f"{PATH}?key_id={key_id}").json["ip_filters"] == [made]
    assert patch(admin, made["id"], {"note": None}).json["key_id"] == key_id
    assert patch(admin, made["id"], {"key_id": None}).json["key_id"] is None
    assert not checked(admin, "203.0.113.7")["allowed"]


def test_a_rule_that_is_there_already_is_a_conflict(admin: Caller) -> None:
    admin.post(PATH, {"action": "deny", "cidr": "203.0.113.0/24"})

    again = admin.post(PATH, {"action": "deny", "cidr": "::ffff:203.0.113.0/120", "enabled": False})

    assert (again.status, again.json["code"], again.json["field"]) == (409, "ip_filter_exists", "cidr")


def test_lists_page_by_cursor(admin: Caller) -> None:
    made = [admin.post(PATH, {"action": "deny", "cidr": f"198.51.100.{n}"}).json["id"] for n in range(5)]
    first = admin.get(PATH + "?limit=3").json
    second = admin.get(f"{PATH}?limit=3&cursor={first['next_cursor']}").json

    assert [rule["id"] for rule in (*first["ip_filters"], *second["ip_filters"])] == made
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"action": None}, "action"),
        ({"action": "block"}, "action"),
        ({"action": 1}, "action"),
        ({"cidr": None}, "cidr"),
        ({"cidr": ""}, "cidr"),
        ({"cidr": "x"}, "cidr"),
        ({"cidr": 7}, "cidr"),
        ({"cidr": "10.0.0.0/33"}, "cidr"),
        ({"cidr": "10.0.0.0/255.0.0.0"}, "cidr"),
        ({"cidr": "10.0.0.1/8"}, "cidr"),
        ({"cidr": "2001:db8::/129"}, "cidr"),
        ({"cidr": "2001:db8::1/64"}, "cidr"),
        ({"cidr": "fe80::1%eth0"}, "cidr"),
        ({"cidr": "1" * 100_000}, "cidr"),
        ({"cidr": "10.0.0.0/8\u0000"}, "cidr"),
        ({"key_id": "nobody123456"}, "key_id"),
        ({"key_id": ""}, "key_id"),
        ({"key_id": "x" * 5000}, "key_id"),
        ({"enabled": "yes"}, "enabled"),
        ({"note": "x" * 501}, "note"),
        ({"note": "a\nb"}, "note"),
        ({"priority": 1}, "priority"),
    ],
)
def test_a_bad_field_is_named(admin: Caller, change: dict[str, Any], field: str) -> None:
    reply = admin.post(PATH, {"action": "deny", "cidr": "192.0.2.50", **change})

    assert (reply.status, reply.json["field"]) == (422, field)
    assert admin.get(PATH).json["ip_filters"] == []


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/check", 422, "ip"),
        ("/check?ip=", 422, "ip"),
        ("/check?ip=x", 422, "ip"),
        ("/check?ip=10.0.0.0/8", 422, "ip"),
        ("/check?ip=fe80::1%25eth0", 422, "ip"),
        ("/check?ip=" + "1" * 5000, 422, "ip"),
        ("/check?ip=10.0.0.1&key_id=%00", 422, "key_id"),
        ("?limit=0", 422, "limit"),
        ("?cursor=x", 422, "cursor"),
        ("?key_id=a.b", 422, "key_id"),
        ("?x=1", 422, "x"),
        ("/nope", 404, None),
        ("/%00", 404, None),
    ],
)
def test_a_bad_parameter_is_named(admin: Caller, path: str, status: int, field: str | None) -> None:
    reply = admin.get(PATH + path)

    assert (reply.status, reply.json.get("field")) == (status, field)


def test_nobody_enters_with_a_virtual_key(behind: Site) -> None:
    for path in (PATH, f"{PATH}/x", f"{PATH}/check?ip=10.0.0.1"):
        assert behind.caller.get(path).status == 401
    assert behind.caller.post(PATH, b"{").status == 401
