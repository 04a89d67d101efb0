"""`/v1/admin/bans`, and the admin key limited like any other credential."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.embedded import Servers
from core.settings import Settings
from tests.support.waiting import wait_until
from tests.web.proxied import from_address, operator, proxied_site
from tests.web.serving import Caller, Reply, Site

PATH = "/v1/admin/bans"


@pytest.fixture(scope="module")
def behind(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    with proxied_site(servers, server_settings, tmp_path_factory.mktemp("bans")) as site:
        yield site


@pytest.fixture
def admin(behind: Site) -> Caller:
    return operator(behind)


def lift(admin: Caller, ip: str) -> Reply:
    return admin.send("DELETE", f"{PATH}/{ip}")


def in_hours(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


def test_a_ban_is_made_shown_listed_and_lifted(admin: Caller) -> None:
    made = admin.post(PATH, {"ip": "203.0.113.7", "reason": "scrapes", "until": in_hours(2)})
    shown = admin.get(made.headers["location"])
    listed = admin.get(PATH)

    assert (made.status, shown.status, listed.status) == (201, 200, 200)
    assert made.json == shown.json
    assert {name: made.json[name] for name in ("ip", "reason", "failures", "level", "active")} == {
        "ip": "203.0.113.7/32",
        "reason": "scrapes",
        "failures": 0,
        "level": 0,
        "active": True,
    }
    assert made.json in listed.json["bans"]
    assert admin.get("/v1/admin/jobs", **from_address("203.0.113.7")).status == 403
    assert lift(admin, "203.0.113.7").status == 204
    assert lift(admin, "203.0.113.7").status == 404
    assert admin.get("/v1/admin/jobs", **from_address("203.0.113.7")).status == 200
    assert made.json["ip"] not in [ban["ip"] for ban in admin.get(PATH).json["bans"]]
    assert made.json["ip"] in [ban["ip"] for ban in admin.get(PATH + "?state=all").json["bans"]]


@pytest.mark.parametrize("written", ["2001:db8:1:2::/64", "2001:db8:1:2::%2F64", "2001:db8:1:2::5", "2001:DB8:1:2:0::"])
def test_an_ipv6_ban_is_lifted_however_its_network_is_written(admin: Caller, written: str) -> None:
    made = admin.post(PATH, {"ip": "2001:db8:1:2:3::4", "reason": "x"})
    assert made.json["ip"] == "2001:db8:1:2::/64"
    assert admin.get("/v1/admin/jobs", **from_address("2001:db8:1:2:ffff::1")).status == 403

    assert lift(admin, written).status == 204


def test_without_an_end_a_ban_lasts_a_day(admin: Caller) -> None:
    made = admin.post(PATH, {"ip": "203.0.113.9", "reason": "x", "until": None}).json

    lasts = datetime.fromisoformat(made["until"]) - datetime.now(UTC)
    assert timedelta(hours=23.9) < lasts < timedelta(hours=24.1)


def test_lists_page_by_cursor(admin: Caller) -> None:
    mine = {f"198.51.100.{number}/32" for number in range(5)}
    for ip in mine:
        admin.post(PATH, {"ip": ip, "reason": "x"})
    seen: list[str] = []
    cursor = ""
    while True:
        page = admin.get(f"{PATH}?limit=2{cursor}").json
        seen += [ban["ip"] for ban in page["bans"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert mine <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ip": ""}, "ip"),
        ({"ip": "x"}, "ip"),
        ({"ip": 7}, "ip"),
        ({"ip": None}, "ip"),
        ({"ip": "10.0.0.0/24"}, "ip"),
        ({"ip": "10.0.0.0/33"}, "ip"),
        ({"ip": "10.0.0.1/8"}, "ip"),
        ({"ip": "2001:db8::/32"}, "ip"),
        ({"ip": "fe80::1%eth0"}, "ip"),
        ({"ip": "127.0.0.1"}, "ip"),
        ({"ip": "1" * 100_000}, "ip"),
        ({"reason": ""}, "reason"),
        ({"reason": "a\nb"}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"until": "soon"}, "until"),
        ({"until": "2035-01-01T00:00:00"}, "until"),
        ({"until": "2020-01-01T00:00:00Z"}, "until"),
        ({"until": "9999-01-01T00:00:00Z"}, "until"),
        ({"until": 7}, "until"),
        ({"level": 1}, "level"),
    ],
)
def test_a_bad_field_is_named(admin: Caller, change: dict[str, Any], field: str) -> None:
    reply = admin.post(PATH, {"ip": "192.0.2.50", "reason": "x", "until": in_hours(1), **change})

    assert (reply.status, reply.json["field"]) == (422, field)
    assert admin.get(f"{PATH}/192.0.2.50").status == 404


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=x", "limit"),
        ("?cursor=!", "cursor"),
        ("?cursor=bm9wZQ", "cursor"),
        ("?state=old", "state"),
        ("?x=1", "x"),
        ("/x", "ip"),
        ("/10.0.0.0/8", "ip"),
        ("/%00", "ip"),
        ("/" + "1" * 5000, "ip"),
    ],
)
def test_a_bad_parameter_is_named(admin: Caller, path: str, field: str) -> None:
    reply = admin.get(PATH + path)

    assert (reply.status, reply.json["field"]) == (422, field)


def test_guesses_of_the_admin_key_ban_and_a_banned_address_is_refused_with_the_right_key_too(
    behind: Site, admin: Caller
) -> None:
    guesser, guess = from_address("192.0.2.66"), admin.with_key("wrong")
    for _ in range(10):
        assert guess.get("/v1/admin/jobs", **guesser).status == 401

    refused = guess.get("/v1/admin/jobs", **guesser)
    right = admin.get("/v1/admin/jobs", **guesser)
    elsewhere = admin.get("/v1/admin/jobs", **from_address("192.0.2.67"))

    assert (refused.status, refused.json["code"]) == (403, "banned")
    assert (right.status, right.json["code"]) == (403, "banned")
    assert elsewhere.status == 200
    wait_until(lambda: admin.get(f"{PATH}/192.0.2.66").status == 200, what="its row")
    row = admin.get(f"{PATH}/192.0.2.66").json
    assert (row["failures"], row["reason"]) == (10, "failed log-ins (admin key)")


def test_a_right_key_between_wrong_ones_clears_nothing(admin: Caller) -> None:
    guesser, guess = from_address("192.0.2.70"), admin.with_key("wrong")
    for _ in range(9):
        guess.get("/v1/admin/jobs", **guesser)
    assert admin.get("/v1/admin/jobs", **guesser).status == 200

    assert guess.get("/v1/admin/jobs", **guesser).status == 401
    assert admin.get("/v1/admin/jobs", **guesser).status == 403


def test_nobody_else_is_banned_by_what_a_guesser_writes(admin: Caller) -> None:
    """Ban poisoning: the address that the proxy adds is the guesser's."""
    guess = admin.with_key("wrong")
    for _ in range(12):
        guess.get("/v1/admin/jobs", **from_address("192.0.2.81, 192.0.2.80"))

    assert admin.get("/v1/admin/jobs", **from_address("192.0.2.81")).status == 200
    assert admin.get("/v1/admin/jobs", **from_address("192.0.2.80")).status == 403


def test_loopback_is_never_banned(behind: Site, admin: Caller) -> None:
    guess = admin.with_key("wrong")
    for _ in range(12):
        assert guess.get("/v1/admin/jobs").status == 401

    assert admin.get("/v1/admin/jobs").status == 200


def test_an_untrusted_peer_that_forwards_is_told_once_and_bans_nobody(site: Site) -> None:
    """The shared site trusts nobody; the tests' own address is loopback, whatever the header says."""
    admin = operator(site)
    for _ in range(12):
        assert admin.with_key("wrong").get("/v1/admin/jobs", **from_address("192.0.2.90")).status == 401

    assert admin.get("/v1/admin/jobs", **from_address("192.0.2.90")).status == 200
    assert site.web.text().count("forwards for others") == 1


def test_nobody_enters_with_a_virtual_key(behind: Site) -> None:
    assert behind.caller.get(PATH).status == 401
    assert behind.caller.post(PATH, b"{").status == 401
    assert behind.caller.send("DELETE", f"{PATH}/203.0.113.7").status == 401
