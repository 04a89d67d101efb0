"""The door for other gateways: `POST /v1/keys/verify` and `GET /v1/auth`."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.access.addresses.ip_rules import Action
from core.embedded import Servers
from core.events.access import Limits
from core.settings import Settings
from tests.support.waiting import wait_until
from tests.web.serving import Caller, Reply, Site, open_shared_site

_addresses = (f"203.0.113.{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def proxied(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """A site that believes proxies on this machine, so that tests come from any address."""
    settings = server_settings.model_copy(update={"trusted_proxies": ("127.0.0.1",)})
    with open_shared_site(servers, settings, tmp_path_factory.mktemp("verify")) as site:
        yield site


@pytest.fixture
def address() -> str:
    return next(_addresses)


@pytest.fixture
def operator(proxied: Site) -> Caller:
    key = proxied.app.settings.admin_key
    assert key is not None
    return proxied.caller.with_key(key.get_secret_value())


def verify(caller: Caller, key: str, **more: Any) -> Reply:
    return caller.post("/v1/keys/verify", {"key": key, **more})


def wrong(key: str) -> str:
    """Well-formed and unknown: another public id under the secret would not pass the checksum."""
    return key[:-1] + ("a" if key[-1] != "a" else "b")


def test_a_valid_key_is_told_with_its_limits_and_what_is_left(proxied: Site, operator: Caller, address: str) -> None:
    key = proxied.app.keys.create("billing", limits=Limits(rpm=10, tpm=1000))

    reply = verify(operator, key.clear_key, ip=address, tokens=400)

    assert reply.status == 200
    assert reply.json["valid"] is True
    assert (reply.json["code"], reply.json["key_id"], reply.json["name"]) == ("ok", key.key_id, "billing")
    assert reply.json["limits"] == {"rpm": 10, "rpd": None, "tpm": 1000, "concurrency": None}
    assert reply.json["remaining"]["rpm"] == 9
    assert reply.json["remaining"]["tpm"] == 600
    reset_at = datetime.fromisoformat(reply.json["reset_at"])
    assert timedelta(0) <= reset_at - datetime.now(UTC) + timedelta(seconds=2) <= timedelta(seconds=64)


def test_a_refusal_by_a_limit_consumes_nothing_and_says_when_to_come_again(proxied: Site, operator: Caller) -> None:
    key = proxied.app.keys.create("small", limits=Limits(rpm=2, tpm=100)).clear_key

    too_many_tokens = verify(operator, key, tokens=101).json
    reply = verify(operator, key, tokens=60).json
    refused = verify(operator, key, tokens=60).json
    smaller = verify(operator, key, tokens=10).json

    assert (too_many_tokens["valid"], too_many_tokens["code"]) == (False, "over_limit")
    assert (reply["code"], refused["code"], smaller["code"]) == ("ok", "rate_limited", "ok")
    assert refused["retry_after_s"] >= 1
    assert refused["remaining"]["rpm"] == 1


@pytest.mark.parametrize("key", ["", "hr_short", "sk-other", "hr_" + "a" * 12 + "_" + "b" * 43 + "_cccccc", "ü"])
def test_what_is_no_key_is_malformed(operator: Caller, key: str) -> None:
    reply = verify(operator, key).json

    assert (reply["valid"], reply["code"], reply["key_id"], reply["limits"]) == (False, "malformed", None, None)


def test_operators_are_told_why_a_known_key_is_refused(proxied: Site, operator: Caller) -> None:
    keys = proxied.app.keys
    disabled, deleted = keys.create("disabled"), keys.create("deleted")
    keys.disable(disabled.key_id)
    keys.delete(deleted.key_id)

    told = verify(operator, disabled.clear_key).json
    assert (told["valid"], told["code"], told["key_id"]) == (False, "disabled", disabled.key_id)
    assert verify(operator, deleted.clear_key).json["code"] == "unknown"


def test_a_model_is_held_against_the_list_of_the_key(proxied: Site, operator: Caller) -> None:
    key = proxied.app.keys.create("mini only", allowed_models=["gpt-5-mini*"]).clear_key

    assert verify(operator, key, model="gpt-5-mini-2026").json["code"] == "ok"
    assert verify(operator, key, model="gpt-5").json["code"] == "model_not_allowed"


def test_the_failures_of_an_address_ban_it_whichever_gateway_it_comes_by(
    proxied: Site, operator: Caller, address: str
) -> None:
    key = proxied.app.keys.create("victim").clear_key
    guesses = [verify(operator, f"guess {number}", ip=address).json["code"] for number in range(10)]

    assert guesses == ["malformed"] * 10
    assert verify(operator, key, ip=address).json["code"] == "banned"
    assert verify(operator, key, ip=next(_addresses)).json["code"] == "ok"
    direct = proxied.caller.with_key(key).get("/v1/tasks", **{"X-Forwarded-For": address})
    assert (direct.status, direct.json["code"]) == (403, "banned")
    assert int(direct.headers["retry-after"]) > 1700


def test_an_address_that_a_filter_refuses_may_use_no_key(proxied: Site, operator: Caller, address: str) -> None:
    key = proxied.app.keys.create("filtered")
    rule = proxied.app.access.ip_filters.create(Action.DENY, address)
    only = proxied.app.access.ip_filters.create(Action.ALLOW, "198.51.100.0/24", key_id=key.key_id)

    def code(ip: str) -> str:
        return str(verify(operator, key.clear_key, ip=ip).json["code"])

    wait_until(lambda: code(address) == "address_refused", 5, what="the rule for everybody is known")
    wait_until(lambda: code("192.0.2.1") == "address_refused", 5, what="the rule of the key is known")
    assert code("198.51.100.7") == "ok"
    for made in (rule, only):
        proxied.app.access.ip_filters.delete(str(made.id))
    wait_until(lambda: code(address) == "ok", 5, what="the rules are gone")


def test_without_the_admin_key_a_key_speaks_for_itself(proxied: Site, address: str) -> None:
    key = proxied.app.keys.create("own").clear_key
    nobody = proxied.caller.with_key("")

    asked = nobody.post("/v1/keys/verify", {"key": key}, **{"X-Forwarded-For": address})
    framed = nobody.post("/v1/keys/verify", {"key": key, "ip": "192.0.2.9"}, **{"X-Forwarded-For": address})

    assert asked.json["code"] == "ok"
    assert (framed.status, framed.json["field"]) == (422, "ip")


def test_a_wrong_admin_key_is_refused_and_counted(proxied: Site, address: str) -> None:
    stranger = proxied.caller.with_key("not the admin key")
    statuses = [
        stranger.post("/v1/keys/verify", {"key": "x"}, **{"X-Forwarded-For": address}).status for _ in range(11)
    ]

    assert statuses == [401] * 10 + [403]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "key"),
        ({"key": 7}, "key"),
        ({"key": "x" * 201}, "key"),
        ({"key": "x", "ip": "300.1.1.1"}, "ip"),
        ({"key": "x", "ip": "10.0.0.0/8"}, "ip"),
        ({"key": "x", "tokens": -1}, "tokens"),
        ({"key": "x", "tokens": 1.5}, "tokens"),
        ({"key": "x", "cost": -0.1}, "cost"),
        ({"key": "x", "model": ""}, "model"),
        ({"key": "x", "what": 1}, "what"),
    ],
)
def test_a_bad_field_is_named(operator: Caller, body: dict[str, Any], field: str) -> None:
    reply = operator.post("/v1/keys/verify", body)

    assert (reply.status, reply.json["field"]) == (422, field)


def test_forward_auth_lets_a_key_in_and_tells_whose_it_is(proxied: Site, address: str) -> None:
    key = proxied.app.keys.create("in front", limits=Limits(rpm=3))
    caller = proxied.caller.with_key(key.clear_key)

    reply = caller.get("/v1/auth", **{"X-Forwarded-For": address})

    assert (reply.status, reply.headers["x-headrace-key-id"]) == (200, key.key_id)
    assert "r=2" in reply.headers["ratelimit"]
    assert '"rpm";q=3;w=60' in reply.headers["ratelimit-policy"]


@pytest.mark.parametrize(
    ("codes", "seen"), [("", [200, 429, 401, 403]), ("?codes=nginx", [200, 403, 401, 403])], ids=["all", "nginx"]
)
def test_forward_auth_answers_in_the_codes_that_the_proxy_knows(
    proxied: Site, address: str, codes: str, seen: list[int]
) -> None:
    once = proxied.caller.with_key(proxied.app.keys.create("once", limits=Limits(rpm=1)).clear_key)
    picky = proxied.caller.with_key(proxied.app.keys.create("picky", allowed_types=["embedding"]).clear_key)
    from_there = {"X-Forwarded-For": address}
    chat = {**from_there, "X-Original-Method": "POST", "X-Original-URI": "/v1/chat/completions"}

    replies = [
        once.get(f"/v1/auth{codes}", **from_there),
        once.get(f"/v1/auth{codes}", **from_there),
        once.with_key("").get(f"/v1/auth{codes}", **from_there),
        picky.get(f"/v1/auth{codes}", **chat),
    ]

    assert [reply.status for reply in replies] == seen
    assert int(replies[1].headers["retry-after"]) >= 1
    assert '"rpm";r=0' in replies[1].headers["ratelimit"]
    # Wherever it is known whose key was shown, it is told.
    assert [len(reply.headers.get("x-headrace-key-id", "")) for reply in replies] == [12, 12, 0, 12]
    if codes:
        assert [reply.headers["x-headrace-status"] for reply in replies] == ["200", "429", "401", "403"]


def test_forward_auth_reads_what_traefik_and_caddy_send(proxied: Site, address: str) -> None:
    picky = proxied.caller.with_key(proxied.app.keys.create("picky", allowed_types=["embedding"]).clear_key)
    sent = {"X-Forwarded-For": address, "X-Forwarded-Method": "POST", "X-Forwarded-Uri": "/v1/images/generations"}

    reply = picky.get("/v1/auth", **sent)

    assert (reply.status, reply.json["code"]) == (403, "type_not_allowed")


def test_an_unknown_way_of_codes_is_told(proxied: Site) -> None:
    reply = proxied.caller.get("/v1/auth?codes=apache")

    assert (reply.status, reply.json["field"]) == (422, "codes")
