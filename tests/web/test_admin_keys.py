"""`/v1/admin/keys`: what is made, changed and refused, and that a clear key is shown when it is made and no more."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.web.serving import NOOP, Caller, Reply, Site
from tests.web.test_admin_openapi import assert_described

KEYS = "/v1/admin/keys"
MEMBERS = {
    "id", "name", "group", "enabled", "expires_at", "allowed_types", "allowed_models", "rpm", "rpd", "tpm",
    "concurrency", "created_at", "version",
}  # fmt: skip
CHAT: dict[str, Any] = {
    "type": "chat.completion",
    "input": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.fixture
def admin(site: Site) -> Caller:
    assert site.app.settings.admin_key is not None
    return site.caller.with_key(site.app.settings.admin_key.get_secret_value())


@pytest.fixture
def group() -> str:
    return secrets.token_hex(8)


def patch(caller: Caller, key_id: str, body: Any, **headers: str) -> Reply:
    data = json.dumps(body).encode()
    return caller.send("PATCH", f"{KEYS}/{key_id}", data, {"Content-Type": "application/json", **headers})


def later(**span: int) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat().replace("+00:00", "Z")


def make(admin: Caller, **body: Any) -> dict[str, Any]:
    reply = admin.post(KEYS, {"name": "n", **body})
    assert reply.status == 201, reply
    made: dict[str, Any] = reply.json
    return made


def test_a_new_key_is_shown_once_with_all_that_was_said_of_it(site: Site, admin: Caller, group: str) -> None:
    said = {
        "name": "billing",
        "group": group,
        "expires_at": later(days=90),
        "allowed_types": ["diagnostic.*"],
        "allowed_models": ["gpt-4o*"],
        "rpm": 60,
        "rpd": 10_000,
        "tpm": 10**12,
        "concurrency": 4,
    }

    reply = admin.post(KEYS, said)

    assert reply.status == 201, reply
    made = reply.json
    assert made.keys() == MEMBERS | {"key"}
    assert reply.headers["location"] == f"{KEYS}/{made['id']}"
    assert reply.etag == '"1"'
    assert reply.headers["cache-control"] == "no-store"
    assert {name: made[name] for name in said} == said
    assert (made["enabled"], made["version"]) == (True, 1)
    assert site.caller.with_key(made["key"]).post("/v1/tasks", NOOP).status == 202
    shown = admin.get(reply.headers["location"])
    assert shown.json == {name: value for name, value in made.items() if name != "key"}
    assert made["key"][16:59] not in site.web.text()


def test_what_is_left_out_is_no_limit(admin: Caller) -> None:
    made = make(admin)

    empty = {name: made[name] for name in MEMBERS - {"id", "name", "enabled", "created_at", "version"}}
    assert empty.pop("allowed_types") == empty.pop("allowed_models") == []
    assert set(empty.values()) == {None}


BIG = 10**30


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": "n", "groop": "x"}, "groop"),
        ({"name": "n", "id": "x"}, "id"),
        ({"name": "n", "group": "a b"}, "group"),
        ({"name": "n", "group": "x" * 101}, "group"),
        *[({"name": "n", name: value}, name) for name in ("rpm", "rpd", "tpm", "concurrency")
          for value in (0, -1, 1.0, "5", True, BIG, 10**13)],
        ({"name": "n", "rpm": 2**31}, "rpm"),
        ({"name": "n", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "n", "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"name": "n", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "n", "expires_at": 4102444800}, "expires_at"),
        ({"name": "n", "expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"name": "n", "allowed_types": "chat.completion"}, "allowed_types"),
        ({"name": "n", "allowed_types": ["a*b"]}, "allowed_types[0]"),
        ({"name": "n", "allowed_models": ["m", "*m"]}, "allowed_models[1]"),
        ({"name": "n", "allowed_models": [1]}, "allowed_models[0]"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_member_is_refused_by_its_name(admin: Caller, body: dict[str, Any], field: str) -> None:
    reply = admin.post(KEYS, body)

    assert (reply.status, reply.json.get("field")) == (422, field), reply.body
    if "name" in body and body["name"] == "n":
        changes = {name: value for name, value in body.items() if name != "name"}
        assert patch(admin, make(admin)["id"], changes).json["field"] == field


@pytest.mark.parametrize("raw", [b'{"name": "n", "rpm": NaN}', b'{"name": "n", "rpm": 1e999}', b"[]", b"{"])
def test_what_is_no_json_or_no_number_is_refused(admin: Caller, raw: bytes) -> None:
    reply = admin.post(KEYS, raw)

    assert reply.status in (400, 422)
    assert reply.json["field"]


def test_null_clears_a_field_and_what_is_absent_stays(admin: Caller, group: str) -> None:
    made = make(admin, group=group, rpm=5, tpm=6, allowed_types=["a"], expires_at=later(hours=1))

    reply = patch(admin, made["id"], {"rpm": None, "tpm": 7, "allowed_types": None, "expires_at": None})

    assert reply.status == 200, reply
    changed = reply.json
    assert (changed["rpm"], changed["tpm"], changed["allowed_types"], changed["expires_at"]) == (None, 7, [], None)
    assert (changed["group"], changed["version"], reply.etag) == (group, 2, '"2"')
    assert patch(admin, made["id"], {"name": None}).json["field"] == "name"
    assert patch(admin, made["id"], {"enabled": None}).json["field"] == "enabled"
    assert patch(admin, made["id"], {}).json["version"] == 2


def test_a_change_from_an_old_version_is_refused_by_body_and_by_header(admin: Caller) -> None:
    key_id = make(admin)["id"]
    assert patch(admin, key_id, {"rpm": 1, "version": 1}).json["version"] == 2
    assert patch(admin, key_id, {"rpm": 2}, If_Match='"2"').json["version"] == 3

    by_body = patch(admin, key_id, {"rpm": 9, "version": 1})
    by_header = [patch(admin, key_id, {"rpm": 9}, If_Match=tag) for tag in ('"1"', '"x"', "3", '""')]

    assert (by_body.status, by_body.json["code"]) == (409, "key_changed")
    assert {(reply.status, reply.json["field"]) for reply in by_header} == {(412, "If-Match")}
    assert admin.get(f"{KEYS}/{key_id}").json["rpm"] == 2
    assert patch(admin, key_id, {"rpm": 4}, If_Match="*").status == 200


def test_a_disabled_key_is_refused_until_it_is_enabled(site: Site, admin: Caller) -> None:
    made = make(admin)
    caller = site.caller.with_key(made["key"])
    assert caller.get("/v1/tasks").status == 200

    disabled = admin.post(f"{KEYS}/{made['id']}/disable")
    assert (disabled.status, disabled.json["enabled"]) == (200, False)
    wait_until(lambda: caller.get("/v1/tasks").status == 401, 5, what="it is refused")
    assert admin.post(f"{KEYS}/{made['id']}/disable").json == disabled.json

    assert admin.post(f"{KEYS}/{made['id']}/enable").json["enabled"] is True
    wait_until(lambda: caller.get("/v1/tasks").status == 200, 5, what="it is let in again")
    assert patch(admin, made["id"], {"enabled": False}).json["enabled"] is False


def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while_or_not(site: Site, admin: Caller) -> None:
    made = make(admin, rpm=1000)
    path = f"{KEYS}/{made['id']}/rotate"

    reply = admin.post(path)
    assert reply.status == 200, reply
    second = reply.json
    assert second.keys() == MEMBERS | {"key"}
    assert (second["id"], second["rpm"]) == (made["id"], 1000)
    for key in (made["key"], second["key"]):
        assert site.caller.with_key(key).get("/v1/tasks").status == 200

    third = admin.post(path, {"overlap_s": 0}).json
    for key, status in ((made["key"], 401), (second["key"], 401), (third["key"], 200)):
        caller = site.caller.with_key(key)
        wait_until(lambda caller=caller, status=status: caller.get("/v1/tasks").status == status, 5)  # type: ignore[misc] # (bound now)

    for bad in (-1, 2_592_001, 1.5, "1", True):
        assert admin.post(path, {"overlap_s": bad}).json["field"] == "overlap_s"
    assert admin.post(path, {"overlap": 1}).json["field"] == "overlap"


def test_a_deleted_key_is_404_and_refused_and_its_tasks_stay(site: Site, admin: Caller, group: str) -> None:
    made = make(admin, group=group)
    caller = site.caller.with_key(made["key"])
    task_id = caller.enqueue()
    path = f"{KEYS}/{made['id']}"

    assert admin.send("DELETE", path).status == 204

    wait_until(lambda: caller.get("/v1/tasks").status == 401, 5, what="it is refused")
    assert admin.get(f"{KEYS}?group={group}").json["keys"] == []
    replies = [admin.get(path), admin.send("DELETE", path), patch(admin, made["id"], {"rpm": 1})]
    replies += [admin.post(f"{path}/{verb}") for verb in ("disable", "enable", "rotate")]
    assert {(reply.status, reply.json["code"]) for reply in replies} == {(404, "key_not_found")}
    assert site.app.tasks.get(task_id)["id"] == task_id


def test_a_list_is_paged_by_cursor_and_filtered_by_group(admin: Caller, group: str) -> None:
    made = [make(admin, group=group)["id"] for _ in range(5)]

    found: list[str] = []
    query = f"{KEYS}?limit=2&group={group}"
    page = admin.get(query).json
    while True:
        found += [key["id"] for key in page["keys"]]
        assert all(key.keys() == MEMBERS for key in page["keys"])
        if page["next_cursor"] is None:
            break
        page = admin.get(f"{query}&cursor={page['next_cursor']}").json

    assert found == made
    assert page["pepper_versions"]["1"] >= 5
    for bad in ("limit=0", "limit=201", "limit=x", "cursor=x", "cursor=%00", "group=", "group=a%20b", "offset=1"):
        reply = admin.get(f"{KEYS}?{bad}")
        assert (reply.status, reply.json["field"]) == (422, bad.partition("=")[0]), bad


def test_only_the_admin_key_may(site: Site, admin: Caller) -> None:
    key_id = make(admin)["id"]
    calls = [("GET", KEYS), ("POST", KEYS), ("GET", f"{KEYS}/{key_id}"), ("DELETE", f"{KEYS}/{key_id}")]
    calls += [("POST", f"{KEYS}/{key_id}/{verb}") for verb in ("disable", "enable", "rotate")]

    for method, path in [*calls, ("PATCH", f"{KEYS}/{key_id}")]:
        for caller in (site.caller, site.caller.with_key("")):
            assert caller.send(method, path).status == 401, (method, path)
    assert admin.get(f"{KEYS}/{key_id}").json["version"] == 1


def test_answers_about_keys_are_as_described(site: Site, admin: Caller) -> None:
    document = site.caller.get("/openapi.json").json
    made = admin.post(KEYS, {"name": "n", "expires_at": later(hours=1), "rpm": 1})
    path, one = f"{KEYS}/{made.json['id']}", KEYS + "/{key_id}"

    assert_described(document, KEYS, "post", made)
    assert_described(document, KEYS, "post", admin.post(KEYS, {"name": ""}))
    assert_described(document, KEYS, "get", admin.get(KEYS))
    assert_described(document, one, "get", admin.get(path))
    assert_described(document, one, "patch", patch(admin, made.json["id"], {"rpm": None}))
    assert_described(document, one, "patch", patch(admin, made.json["id"], {"rpm": 1, "version": 1}))
    assert_described(document, one, "patch", patch(admin, made.json["id"], {"rpm": 1}, If_Match='"1"'))
    for verb in ("disable", "enable", "rotate"):
        assert_described(document, f"{one}/{verb}", "post", admin.post(f"{path}/{verb}"))
    assert_described(document, one, "delete", admin.send("DELETE", path))
    assert_described(document, one, "delete", admin.send("DELETE", path))


def test_a_key_gets_only_the_types_and_models_it_is_for(site: Site, admin: Caller) -> None:
    made = make(admin, allowed_types=["chat.*", "diagnostic.noop"], allowed_models=["gpt-4o*"])
    caller = site.caller.with_key(made["key"])
    other = {**CHAT, "input": {**CHAT["input"], "model": "gpt-5"}}
    sleep = {"type": "diagnostic.sleep", "input": {"seconds": 0}}

    assert caller.post("/v1/tasks", CHAT).status == 202
    assert caller.post("/v1/tasks", NOOP).status == 202
    refused = [
        (caller.post("/v1/tasks", sleep), "type_not_allowed", "type"),
        (caller.post("/v1/tasks", other), "model_not_allowed", "input.model"),
        (caller.post("/v1/tasks/batch", {"tasks": [NOOP, sleep]}), "type_not_allowed", "tasks[1].type"),
        (caller.post("/v1/tasks/batch", {"tasks": [CHAT, other]}), "model_not_allowed", "tasks[1].input.model"),
    ]
    for reply, code, field in refused:
        assert (reply.status, reply.json["code"], reply.json["field"]) == (403, code, field), reply.body
    assert len(caller.get("/v1/tasks").json["tasks"]) == 2


def test_a_retry_is_refused_when_the_key_may_not_have_such_a_task_any_more(site: Site, admin: Caller) -> None:
    made = make(admin)
    caller = site.caller.with_key(made["key"])
    task_id = caller.enqueue()
    assert caller.post(f"/v1/tasks/{task_id}/cancel").status == 200
    patch(admin, made["id"], {"allowed_types": ["chat.*"]})

    def retried() -> tuple[int, object, object]:
        reply = caller.post(f"/v1/tasks/{task_id}/retry")
        return reply.status, reply.json.get("code"), reply.json.get("field")

    wait_until(lambda: retried() == (403, "type_not_allowed", "type"), 5, what="the retry is refused")
