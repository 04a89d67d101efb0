"""The contract of `/v1/tasks`, over a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from core.tasks.model import TaskState
from tests.web.moves import claim, finish
from tests.web.serving import NOOP, Caller, Site

FIELDS = [
    "id",
    "type",
    "queue",
    "priority",
    "state",
    "version",
    "attempt",
    "max_attempts",
    "progress",
    "result",
    "error",
    "retry_of",
    "created_at",
    "run_at",
    "started_at",
    "finished_at",
    "metadata",
]


def test_an_accepted_task_is_answered_with_202_its_location_and_all_its_fields(caller: Caller) -> None:
    reply = caller.post("/v1/tasks", {**NOOP, "metadata": {"order": 17}})

    task = reply.json
    assert reply.status == 202
    assert reply.headers["location"] == f"/v1/tasks/{task['id']}"
    assert list(task) == FIELDS
    assert task["state"] == "pending"
    assert (task["queue"], task["priority"], task["max_attempts"]) == ("default", 5, 3)
    assert task["progress"] == {"percent": None, "message": None}
    assert task["metadata"] == {"order": 17}
    assert caller.get(reply.headers["location"]).json == task


def test_options_are_kept(caller: Caller) -> None:
    at = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    options = {"priority": 9, "max_attempts": 7, "deadline_s": 12.5, "run_at": at.isoformat()}

    task = caller.post("/v1/tasks", {**NOOP, **options}).json

    assert (task["priority"], task["max_attempts"]) == (9, 7)
    assert datetime.fromisoformat(task["run_at"]) == at


def test_null_means_the_default(caller: Caller) -> None:
    optional = ("queue", "priority", "run_at", "max_attempts", "deadline_s", "metadata")

    task = caller.post("/v1/tasks", {**NOOP, **dict.fromkeys(optional)}).json

    assert (task["queue"], task["priority"], task["metadata"]) == ("default", 5, {})


def test_a_seen_version_is_304_until_the_task_changes(site: Site, caller: Caller) -> None:
    task_id = caller.enqueue()
    first = caller.get(f"/v1/tasks/{task_id}")

    again = caller.get(f"/v1/tasks/{task_id}", If_None_Match=first.etag)
    listed = caller.get(f"/v1/tasks/{task_id}", If_None_Match=f'"other", W/{first.etag}')
    other = caller.get(f"/v1/tasks/{task_id}", If_None_Match='"abc"')

    assert (again.status, again.body, again.etag) == (304, b"", first.etag)
    assert listed.status == 304
    assert other.status == 200
    assert first.headers["retry-after"] == "1"

    assert caller.post(f"/v1/tasks/{task_id}/cancel").status == 200
    final = caller.get(f"/v1/tasks/{task_id}", If_None_Match=first.etag)
    assert (final.status, final.json["state"]) == (200, "cancelled")
    assert "retry-after" not in final.headers


def test_status_says_where_it_was_answered_from(site: Site, caller: Caller, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})

    sources = [caller.get(f"/v1/tasks/{task_id}").headers["headrace-status-from"] for _ in range(2)]
    finish(site.app, claim(site.app, queue=queue))
    sources += [caller.get(f"/v1/tasks/{task_id}").headers["headrace-status-from"] for _ in range(2)]

    assert sources == ["database", "redis", "redis", "memory"]


def test_head_is_get_without_the_body(caller: Caller) -> None:
    task_id = caller.enqueue()

    reply = caller.send("HEAD", f"/v1/tasks/{task_id}")

    assert (reply.status, reply.body) == (200, b"")
    assert reply.etag == caller.get(f"/v1/tasks/{task_id}").etag


def test_a_page_leads_to_the_next_until_all_were_seen(caller: Caller) -> None:
    ids = [caller.enqueue() for _ in range(5)]

    seen: list[str] = []
    path = "/v1/tasks?limit=2"
    while path:
        page = caller.get(path).json
        seen += [task["id"] for task in page["tasks"]]
        path = f"/v1/tasks?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""

    assert seen == ids[::-1]


def test_a_page_can_be_filtered(caller: Caller) -> None:
    waiting, ended = caller.enqueue(), caller.enqueue()
    caller.post(f"/v1/tasks/{ended}/cancel")

    def listed(query: str) -> list[str]:
        return [task["id"] for task in caller.get(f"/v1/tasks?{query}").json["tasks"]]

    assert listed("state=pending") == [waiting]
    assert listed("state=cancelled&type=diagnostic.noop&queue=default") == [ended]
    assert listed("type=chat.completion") == []


def test_cancel_ends_a_waiting_task_and_asks_for_a_running_one(site: Site, caller: Caller, queue: str) -> None:
    waiting = caller.enqueue()
    first, again = (caller.post(f"/v1/tasks/{waiting}/cancel") for _ in range(2))
    assert (first.status, first.json["state"]) == (200, "cancelled")
    assert (again.status, again.json["state"]) == (200, "cancelled")

    running = caller.enqueue({**NOOP, "queue": queue})
    claimed = claim(site.app, queue=queue)
    asked = caller.post(f"/v1/tasks/{running}/cancel")
    assert (asked.status, asked.json["state"]) == (202, "processing")

    finish(site.app, claimed)
    late = caller.post(f"/v1/tasks/{running}/cancel")
    assert (late.status, late.json["code"]) == (409, "task_is_final")


def test_retry_makes_a_new_task_linked_to_the_old(caller: Caller) -> None:
    old = caller.enqueue({"type": "diagnostic.noop", "input": {"payload": "x"}, "metadata": {"a": 1}})
    too_early = caller.post(f"/v1/tasks/{old}/retry")
    assert (too_early.status, too_early.json["code"]) == (409, "task_not_retryable")

    caller.post(f"/v1/tasks/{old}/cancel")
    reply = caller.post(f"/v1/tasks/{old}/retry")

    new = reply.json
    assert reply.status == 202
    assert reply.headers["location"] == f"/v1/tasks/{new['id']}"
    assert (new["retry_of"], new["state"], new["metadata"]) == (old, "pending", {"a": 1})
    assert caller.get(f"/v1/tasks/{old}").json["state"] == "cancelled"


def test_two_retries_with_one_idempotency_key_make_one_task(caller: Caller) -> None:
    old, other = caller.enqueue(), caller.enqueue()
    for task_id in (old, other):
        caller.post(f"/v1/tasks/{task_id}/cancel")

    first = caller.post(f"/v1/tasks/{old}/retry", Idempotency_Key="again")
    caller.post(f"/v1/tasks/{first.json['id']}/cancel")
    again = caller.post(f"/v1/tasks/{old}/retry", Idempotency_Key="again")
    misused = caller.post(f"/v1/tasks/{other}/retry", Idempotency_Key="again")

    assert first.status == again.status == 202
    assert again.headers["location"] == first.headers["location"]
    assert (again.json["id"], again.json["state"]) == (first.json["id"], "cancelled")
    assert (misused.status, misused.json["code"]) == (409, "idempotency_mismatch")
    assert len(caller.get("/v1/tasks").json["tasks"]) == 3


def test_a_completed_task_is_not_retried(site: Site, caller: Caller, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})
    finish(site.app, claim(site.app, queue=queue), TaskState.COMPLETED)

    assert caller.post(f"/v1/tasks/{task_id}/retry").status == 409


def test_anothers_task_is_404_on_every_verb_also_when_it_is_in_memory(site: Site, caller: Caller) -> None:
    task_id = caller.enqueue()
    caller.post(f"/v1/tasks/{task_id}/cancel")
    for _ in range(2):
        assert caller.get(f"/v1/tasks/{task_id}").status == 200
    stranger, unknown = site.other(), f"task_{'0' * 32}"

    for path, method in (("", "GET"), ("?wait=1", "GET"), ("/cancel", "POST"), ("/retry", "POST")):
        theirs = stranger.send(method, f"/v1/tasks/{task_id}{path}")
        nobodys = stranger.send(method, f"/v1/tasks/{unknown}{path}")
        assert theirs.status == nobodys.status == 404
        assert theirs.body.replace(task_id.encode(), b"") == nobodys.body.replace(unknown.encode(), b"")
    assert stranger.get("/v1/tasks").json == {"tasks": [], "next_cursor": None}


def test_the_same_idempotency_key_makes_one_task(caller: Caller) -> None:
    first = caller.post("/v1/tasks", {**NOOP, "metadata": {"a": 1, "b": 2}}, Idempotency_Key="order 17")
    caller.post(f"/v1/tasks/{first.json['id']}/cancel")
    again = caller.post(
        "/v1/tasks",
        b'{ "metadata": {"b": 2, "a": 1}, "input": {}, "type": "diagnostic.noop" }',
        Idempotency_Key="order 17",
    )

    assert "idempotency-replayed" not in first.headers
    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
    assert again.json["id"] == first.json["id"]
    assert again.json["state"] == "cancelled"
    assert len(caller.get("/v1/tasks").json["tasks"]) == 1


def test_an_idempotency_key_is_refused_for_another_body_and_free_for_another_owner(site: Site, caller: Caller) -> None:
    task_id = caller.enqueue(Idempotency_Key="k")

    other_body = caller.post("/v1/tasks", {**NOOP, "priority": 1}, Idempotency_Key="k")
    other_owner = site.other().post("/v1/tasks", NOOP, Idempotency_Key="k")

    assert (other_body.status, other_body.json["code"]) == (409, "idempotency_mismatch")
    assert other_owner.status == 202
    assert other_owner.json["id"] != task_id


def test_concurrent_requests_with_one_idempotency_key_make_one_task(caller: Caller) -> None:
    for number in range(5):
        barrier = Barrier(8)

        def send(key: str, barrier: Barrier = barrier) -> str:
            barrier.wait(5)
            return caller.enqueue(Idempotency_Key=key)

        with ThreadPoolExecutor(8) as pool:
            ids = set(pool.map(send, [f"race-{number}"] * 8))
        assert len(ids) == 1

    assert len(caller.get("/v1/tasks").json["tasks"]) == 5


def test_a_batch_is_accepted_in_order_and_replayed_as_a_whole(caller: Caller) -> None:
    batch = {"tasks": [{**NOOP, "metadata": {"place": place}} for place in range(1000)]}

    first = caller.post("/v1/tasks/batch", batch, Idempotency_Key="batch")
    again = caller.post("/v1/tasks/batch", batch, Idempotency_Key="batch")

    assert first.status == again.status == 202
    assert [task["metadata"]["place"] for task in first.json["tasks"]] == list(range(1000))
    assert again.headers["idempotency-replayed"] == "true"
    assert [t["id"] for t in again.json["tasks"]] == [t["id"] for t in first.json["tasks"]]


def test_one_bad_task_refuses_the_whole_batch(caller: Caller) -> None:
    bad = {"type": "chat.completion", "input": {"model": "m", "messages": [{"role": "nobody", "content": "x"}]}}

    reply = caller.post("/v1/tasks/batch", {"tasks": [NOOP, NOOP, NOOP, bad]})

    assert reply.status == 422
    assert reply.json["field"] == "tasks[3].input.messages[0].role"
    assert caller.get("/v1/tasks").json["tasks"] == []


@pytest.mark.parametrize("number", [0, 1001])
def test_a_batch_has_one_to_a_thousand_tasks(caller: Caller, number: int) -> None:
    reply = caller.post("/v1/tasks/batch", {"tasks": [NOOP] * number})

    assert (reply.status, reply.json["field"]) == (422, "tasks")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/v1/tasks", 405),
        ("PUT", "/v1/tasks/task_0", 405),
        ("GET", "/v1/tasks/task_0/cancel", 405),
        ("TRACE", "/live", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/tasks/", 404),
        ("POST", "/docs", 404),
    ],
)
def test_what_is_not_there_is_a_problem_document(site: Site, method: str, path: str, status: int) -> None:
    reply = site.caller.send(method, path)

    assert reply.status == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/tasks", "GET, HEAD, POST"),
        ("GET", "/v1/tasks/batch", "POST"),
        ("OPTIONS", "/v1/tasks/batch", "POST"),
        ("POST", "/v1/tasks/task_0", "GET, HEAD"),
    ],
)
def test_the_methods_of_a_path_are_told(site: Site, method: str, path: str, allowed: str) -> None:
    reply = site.caller.send(method, path)

    assert (reply.status, reply.headers["allow"]) == (405, allowed)
