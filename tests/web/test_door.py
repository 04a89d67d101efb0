"""The door: 401 only on proof, and no right outlives its revocation."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from core.app import App
from tests.support.waiting import wait_until
from tests.web.serving import NOOP, Caller, Site, running_web


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer hr_short",
        "Bearer " + "x" * 5000,
        "Bearer hr_" + "a" * 12 + "_" + "b" * 43 + "_" + "cccccc",
        "Bearer \xff\xfe",
        "hr_" + "a" * 12,
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/tasks"), ("POST", "/v1/tasks/batch"), ("GET", "/v1/tasks"), ("GET", f"/v1/tasks/task_{'0' * 32}")],
)
def test_without_a_valid_key_the_answer_is_401(site: Site, method: str, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    reply = site.caller.with_key("").send(method, path, headers=headers)

    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert (reply.headers["content-type"], reply.json["code"]) == ("application/problem+json", "unauthenticated")


def test_a_wrong_secret_under_a_known_public_id_is_401(site: Site) -> None:
    key = site.app.keys.create("victim").clear_key
    caller = site.caller.with_key(key)
    assert caller.get("/v1/tasks").status == 200

    # Another key's secret and checksum under this public id, and one with a right checksum.
    other = site.app.keys.create("attacker").clear_key
    forged = key[:15] + other[15:]

    assert site.caller.with_key(forged).get("/v1/tasks").status == 401
    assert caller.get("/v1/tasks").status == 200


def test_the_scheme_is_case_insensitive(site: Site) -> None:
    key = site.caller.key

    assert site.caller.with_key("").get("/v1/tasks", Authorization=f"bearer {key}").status == 200


@pytest.mark.alone
def test_a_disabled_key_is_refused_at_once(site: Site) -> None:
    key = site.app.keys.create("short-lived")
    caller = site.caller.with_key(key.clear_key).keep()
    assert caller.get("/v1/tasks").status == 200

    site.app.keys.disable(key.key_id)
    disabled_at = time.monotonic()
    wait_until(lambda: caller.get("/v1/tasks").status == 401, 1, every=0.002)

    assert time.monotonic() - disabled_at < 0.25


def test_a_disabled_key_is_refused_within_five_seconds_when_the_announcement_is_lost(app: App, tmp_path: Path) -> None:
    key = app.keys.create("short-lived")
    with running_web(app.settings, tmp_path / "web.log") as web:
        caller = Caller(web.url, key.clear_key).keep()
        assert caller.get("/v1/tasks").status == 200

        with app.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE virtual_keys SET disabled_at = now() WHERE key_id = %(id)s", {"id": key.key_id}
            )
        disabled_at = time.monotonic()
        wait_until(lambda: caller.get("/v1/tasks").status == 401, 6, every=0.05)

    assert time.monotonic() - disabled_at < 5


def test_no_key_and_no_prompt_is_logged(own_site: Site) -> None:
    secret = "a prompt that must stay private"
    body = {"type": "chat.completion", "input": {"model": "m", "messages": [{"role": "user", "content": secret}]}}
    caller = own_site.caller
    caller.enqueue(body)
    caller.post("/v1/tasks", {**NOOP, "priority": secret})
    caller.with_key(caller.key[:-1] + "x").get("/v1/tasks")
    caller.post("/v1/tasks", b'{"input":"' + secret.encode())
    assert own_site.web.stop() == 0

    log = own_site.web.text()
    assert secret not in log
    assert caller.key[16:] not in log


def test_no_key_is_in_redis(own_site: Site) -> None:
    own_site.caller.enqueue()
    own_site.caller.get("/v1/tasks")
    url = own_site.app.settings.redis_url
    assert url is not None
    with redis.Redis.from_url(url.get_secret_value()) as connection:
        names = [name.decode() for name in connection.scan_iter("*")]

    assert not [name for name in names if own_site.caller.key[16:40] in name]
