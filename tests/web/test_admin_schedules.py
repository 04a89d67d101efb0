"""`/v1/admin/schedules`: what is saved, what is refused and why, and that a preview saves nothing."""

from __future__ import annotations

import itertools
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.web.serving import Caller, Reply, Site

CHAT: dict[str, Any] = {
    "type": "chat.completion",
    "input": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.fixture
def admin(site: Site) -> Caller:
    assert site.app.settings.admin_key is not None
    return site.caller.with_key(site.app.settings.admin_key.get_secret_value())


@pytest.fixture
def body(site: Site) -> dict[str, Any]:
    """A schedule of its own name that is due every night."""
    return {
        "name": f"s-{secrets.token_hex(4)}",
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "task": CHAT,
        "owner": site.key_id,
    }


def path_of(body: dict[str, Any]) -> str:
    return f"/v1/admin/schedules/{body['name']}"


def patch(caller: Caller, path: str, body: Any, **headers: str) -> Reply:
    return caller.send("PATCH", path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})


def test_a_new_schedule_is_answered_with_its_place_and_its_next_ten_fires(admin: Caller, body: dict[str, Any]) -> None:
    reply = admin.post("/v1/admin/schedules", body)

    assert reply.status == 201, reply
    assert reply.headers["location"] == path_of(body)
    created = reply.json
    assert created["name"] == body["name"]
    assert created["task"] == CHAT
    assert (created["missed"], created["overlap"], created["jitter_s"], created["enabled"]) == (
        "latest",
        "skip",
        0,
        True,
    )
    fires = [datetime.fromisoformat(fire) for fire in created["fires"]]
    assert len(fires) == 10
    assert fires == sorted(set(fires))
    assert fires[0] > datetime.now(UTC)
    berlin = [fire.astimezone(ZoneInfo("Europe/Berlin")) for fire in fires]
    assert {(fire.hour, fire.minute) for fire in berlin} <= {(2, 30), (3, 0)}
    assert created["next_due"] == created["fires"][0]


def test_a_schedule_is_read_back_as_it_was_made(admin: Caller, body: dict[str, Any]) -> None:
    body |= {"missed": "all", "overlap": "queue", "jitter_s": 30, "enabled": False}
    body["task"] = {
        **CHAT,
        "queue": "default",
        "priority": 7,
        "max_attempts": 2,
        "deadline_s": 60,
        "metadata": {"a": 1},
    }
    created = admin.post("/v1/admin/schedules", body)

    shown = admin.get(path_of(body))

    assert created.status == 201, created
    assert shown.status == 200
    for name, value in body.items():
        assert shown.json[name] == value, name
    assert shown.json["last_runs"] == []
    assert shown.json["next_due"] is None
    assert shown.etag == created.etag


def test_a_preview_saves_nothing_and_needs_no_more_than_the_timing(admin: Caller, body: dict[str, Any]) -> None:
    whole = admin.post("/v1/admin/schedules/preview", body)
    timing = admin.post("/v1/admin/schedules/preview", {"cron": body["cron"], "timezone": body["timezone"]})
    every = admin.post("/v1/admin/schedules/preview", {"every_s": 90})

    assert whole.status == timing.status == every.status == 200
    assert whole.json == timing.json
    assert len(whole.json["fires"]) == 10
    times = [datetime.fromisoformat(fire) for fire in every.json["fires"]]
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {timedelta(seconds=90)}
    assert admin.get(path_of(body)).status == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "not a cron"}, "cron"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "\0 * * * *"}, "cron"),
        ({"cron": ""}, "cron"),
        ({"cron": 5}, "cron"),
        ({"every_s": 60}, "cron"),
        ({"cron": None}, "cron"),
        ({"cron": None, "every_s": 0}, "every_s"),
        ({"cron": None, "every_s": 0.5}, "every_s"),
        ({"cron": None, "every_s": -1}, "every_s"),
        ({"cron": None, "every_s": 1e300}, "every_s"),
        ({"cron": None, "every_s": "60"}, "every_s"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": "/etc/localtime"}, "timezone"),
        ({"timezone": "\0"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "prune\n"}, "name"),
        ({"name": None}, "name"),
        ({"owner": "nobody"}, "owner"),
        ({"owner": "\0"}, "owner"),
        ({"owner": None}, "owner"),
        ({"missed": "never"}, "missed"),
        ({"missed": 1}, "missed"),
        ({"overlap": "both"}, "overlap"),
        ({"jitter_s": -1}, "jitter_s"),
        ({"jitter_s": 1e9}, "jitter_s"),
        ({"enabled": "yes"}, "enabled"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"task": None}, "task"),
        ({"task": {"input": {}}}, "task.type"),
        ({"task": {**CHAT, "type": "no.such"}}, "task.type"),
        ({"task": {**CHAT, "input": {"model": "m"}}}, "task.input.messages"),
        ({"task": {**CHAT, "input": {**CHAT["input"], "messages": []}}}, "task.input.messages"),
        ({"task": {**CHAT, "input": {**CHAT["input"], "model": "\0"}}}, "task.input.model"),
        ({"task": {**CHAT, "queue": "no-such-queue"}}, "task.queue"),
        ({"task": {**CHAT, "queue": "\0"}}, "task.queue"),
        ({"task": {**CHAT, "priority": 10}}, "task.priority"),
        ({"task": {**CHAT, "max_attempts": 0}}, "task.max_attempts"),
        ({"task": {**CHAT, "deadline_s": 0}}, "task.deadline_s"),
        ({"task": {**CHAT, "metadata": []}}, "task.metadata"),
        ({"task": {**CHAT, "metadata": {"a": "x" * 20_000}}}, "task.metadata"),
        ({"task": {**CHAT, "run_at": "2026-01-01T00:00:00Z"}}, "task.run_at"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else str(value),
)
def test_a_wrong_field_is_named_and_nothing_is_saved(
    admin: Caller, body: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    wrong = {**body, **change}
    reply = admin.post("/v1/admin/schedules", wrong)

    assert reply.status == 422, reply
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["field"] == field, reply.json
    assert admin.get(path_of(body)).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 422), (b"null", 422), (b"[" * 5000, 422), (b"x" * 2_000_000, 413)],
)
@pytest.mark.parametrize("path", ["/v1/admin/schedules", "/v1/admin/schedules/preview"])
def test_what_is_no_json_object_is_refused(admin: Caller, path: str, body: bytes, status: int) -> None:
    assert admin.post(path, body).status == status


def test_a_name_is_used_once(admin: Caller, body: dict[str, Any]) -> None:
    first = admin.post("/v1/admin/schedules", body)
    second = admin.post("/v1/admin/schedules", {**body, "cron": "0 5 * * *"})

    assert first.status == 201
    assert second.status == 409
    assert second.json["field"] == "name"
    assert body["name"] in second.json["detail"]
    assert admin.get(path_of(body)).json["cron"] == body["cron"]


def test_of_many_that_make_one_name_at_once_one_succeeds(admin: Caller, body: dict[str, Any]) -> None:
    for _ in range(5):
        body["name"] = f"s-{secrets.token_hex(4)}"
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(admin.post, ["/v1/admin/schedules"] * 8, [body] * 8))

        assert sorted(reply.status for reply in replies) == [201] + [409] * 7


def test_changes_at_once_are_made_or_refused_but_never_lost(admin: Caller, body: dict[str, Any]) -> None:
    admin.post("/v1/admin/schedules", body)
    changes: list[dict[str, Any]] = [{"jitter_s": 7}, {"missed": "all"}, {"overlap": "queue"}, {"timezone": "UTC"}]

    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(partial(patch, admin, path_of(body)), changes))

    assert {reply.status for reply in replies} <= {200, 409}
    made = [change for change, reply in zip(changes, replies, strict=True) if reply.status == 200]
    now = admin.get(path_of(body)).json
    assert made
    assert now["version"] == 1 + len(made)
    for change in made:
        assert now.items() >= change.items()


def test_lists_are_paged_by_name(admin: Caller, body: dict[str, Any]) -> None:
    names = [f"{body['name']}-{place}" for place in range(5)]
    for name in names:
        assert admin.post("/v1/admin/schedules", {**body, "name": name}).status == 201

    seen: list[str] = []
    cursor = ""
    while True:
        page = admin.get(f"/v1/admin/schedules?limit=2{cursor}").json
        assert len(page["schedules"]) <= 2
        seen += [schedule["name"] for schedule in page["schedules"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert [name for name in seen if name in names] == names
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=201", "cursor=%00", "cursor=", "color=red", "limit=1&limit=2"]
)
def test_a_wrong_parameter_is_named(admin: Caller, query: str) -> None:
    reply = admin.get(f"/v1/admin/schedules?{query}")

    assert reply.status == 422
    assert reply.json["field"] == query.partition("=")[0]


def test_a_change_leaves_alone_what_it_does_not_name(admin: Caller, body: dict[str, Any]) -> None:
    admin.post("/v1/admin/schedules", body)

    changed = patch(admin, path_of(body), {"every_s": 3600, "enabled": False})
    enabled = patch(admin, path_of(body), {"enabled": True})

    assert changed.status == 200, changed
    assert (changed.json["cron"], changed.json["every_s"]) == (None, 3600)
    assert changed.json["enabled"] is False
    assert changed.json["next_due"] is None
    for name in ("name", "task", "owner", "timezone"):
        assert changed.json[name] == body[name]
    assert enabled.json["next_due"] == enabled.json["fires"][0]
    assert enabled.json["version"] > changed.json["version"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "0 1 * * *", "every_s": 60}, "cron"),
        ({"every_s": 0}, "every_s"),
        ({"timezone": "Nowhere"}, "timezone"),
        ({"task": {**CHAT, "type": "no.such"}}, "task.type"),
        ({"task": {**CHAT, "queue": "no-such-queue"}}, "task.queue"),
        ({"owner": "nobody"}, "owner"),
        ({"name": "other"}, "name"),
        ({"overlap": "x"}, "overlap"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else str(value),
)
def test_a_wrong_change_is_named_and_changes_nothing(
    admin: Caller, body: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    admin.post("/v1/admin/schedules", body)
    before = admin.get(path_of(body)).json

    reply = patch(admin, path_of(body), change)

    assert reply.status == 422, reply
    assert reply.json["field"] == field
    assert admin.get(path_of(body)).json == before


def test_a_change_of_a_version_that_is_gone_is_refused(admin: Caller, body: dict[str, Any]) -> None:
    seen = admin.post("/v1/admin/schedules", body).etag

    first = patch(admin, path_of(body), {"enabled": False}, If_Match=seen)
    second = patch(admin, path_of(body), {"jitter_s": 5}, If_Match=seen)
    third = patch(admin, path_of(body), {"jitter_s": 5}, If_Match=first.etag)

    assert first.status == 200, first
    assert second.status == 412
    assert third.status == 200


def test_a_deleted_schedule_is_gone(admin: Caller, body: dict[str, Any]) -> None:
    admin.post("/v1/admin/schedules", body)

    deleted = admin.send("DELETE", path_of(body))
    again = admin.send("DELETE", path_of(body))

    assert (deleted.status, deleted.body) == (204, b"")
    assert "content-length" not in deleted.headers
    assert again.status == 404
    assert admin.get(path_of(body)).status == 404
    assert admin.post("/v1/admin/schedules", body).status == 201


@pytest.mark.parametrize("name", ["no-such", "%00", "a%20b", "..", "x" * 300, "%F0%9F%98%80"])
def test_an_unknown_schedule_is_404_on_every_verb(admin: Caller, name: str) -> None:
    path = f"/v1/admin/schedules/{name}"

    replies = [
        admin.get(path),
        admin.get(f"{path}/history"),
        patch(admin, path, {"enabled": False}),
        admin.send("DELETE", path),
    ]

    assert [reply.status for reply in replies] == [404] * 4
