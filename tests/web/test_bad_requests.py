"""What a wrong header, parameter, id or ETag gets."""

from __future__ import annotations

import json

import pytest

from tests.web.serving import NOOP, Caller, Site
from tests.web.test_bad_input import assert_refused


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-Type": "text/plain"}, "Content-Type"),
        ({"Content-Type": ""}, "Content-Type"),
        ({"Content-Type": "application/json; charset=latin-1"}, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type"),
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
    ],
)
def test_a_body_that_is_not_sent_as_plain_json_is_415(caller: Caller, headers: dict[str, str], field: str) -> None:
    reply = caller.send("POST", "/v1/tasks", json.dumps(NOOP).encode(), {"Content-Type": "application/json", **headers})

    assert_refused(caller, reply, 415, field)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"']
)
def test_json_is_known_by_any_of_its_names(caller: Caller, content_type: str) -> None:
    reply = caller.send("POST", "/v1/tasks", json.dumps(NOOP).encode(), {"Content-Type": content_type})

    assert reply.status == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "tab\tbed"])
def test_an_idempotency_key_is_short_printable_ascii(caller: Caller, key: str) -> None:
    reply = caller.post("/v1/tasks", NOOP, Idempotency_Key=key)

    assert_refused(caller, reply, 422, "Idempotency-Key")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=done", "state"),
        ("state=", "state"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=1e1", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("cursor=abc", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAAAA", "cursor"),
        ("type=%00", "type"),
        ("queue=%ED%A0%80", "query"),
        ("type=%FF", "query"),
        ("colour=red", "colour"),
    ],
)
def test_a_wrong_parameter_of_the_list_is_named(caller: Caller, query: str, field: str) -> None:
    reply = caller.get(f"/v1/tasks?{query}")

    assert (reply.status, reply.json["field"]) == (422, field), reply


@pytest.mark.parametrize("wait", ["-1", "61", "x", "", "1.5", "NaN", "9" * 400])
def test_a_wait_out_of_bounds_is_refused(caller: Caller, wait: str) -> None:
    task_id = caller.enqueue()

    reply = caller.get(f"/v1/tasks/{task_id}?wait={wait}")

    assert (reply.status, reply.json["field"]) == (422, "wait")


@pytest.mark.parametrize(
    "task_id",
    [
        "task_",
        "task_zz",
        "task_" + "0" * 31,
        "task_" + "0" * 33,
        "TASK_" + "0" * 32,
        "task_" + "A" * 32,
        "task_" + "0" * 32 + "%0A",
        "%00",
        "%FF",
        "..%2F..%2Fetc",
        "x" * 5000,
        "task_' OR 1=1 --".replace(" ", "%20"),
    ],
)
@pytest.mark.parametrize(("method", "verb"), [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")])
def test_a_bad_id_is_404_on_every_verb(site: Site, task_id: str, method: str, verb: str) -> None:
    reply = site.caller.send(method, f"/v1/tasks/{task_id}{verb}")

    assert reply.status == 404, reply
    assert reply.headers["content-type"] == "application/problem+json"
    assert len(reply.body) < 1000


@pytest.mark.parametrize(
    "etag", ['"', "junk", '"999999999999999-1"', '"-1-1"', "\xff", '"1-"', "," * 5000, '"\xd9\xa3-1"']
)
def test_a_strange_etag_matches_nothing(caller: Caller, etag: str) -> None:
    task_id = caller.enqueue()

    assert caller.get(f"/v1/tasks/{task_id}", If_None_Match=etag).status == 200


def test_an_etag_from_the_future_gets_the_truth(caller: Caller) -> None:
    task_id = caller.enqueue()
    for _ in range(3):
        reply = caller.get(f"/v1/tasks/{task_id}", If_None_Match='"99-99999999999999999"')

        assert (reply.status, reply.json["version"], reply.headers["headrace-status-from"]) == (200, 1, "database")
