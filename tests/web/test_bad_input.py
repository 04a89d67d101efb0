"""What bad input gets: a 4xx problem document that names the field, and nothing stored."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.web.serving import NOOP, Caller, Reply

CHAT = {"type": "chat.completion", "input": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}


def with_input(**fields: object) -> dict[str, object]:
    return {**CHAT, "input": {**CHAT["input"], **fields}}  # type: ignore[dict-item]  # a dict of dicts


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def noop_with(text: str) -> bytes:
    """A task whose payload is this JSON text."""
    return b'{"type":"diagnostic.noop","input":{"payload":%s}}' % text.encode()


def metadata_with(text: str) -> bytes:
    return b'{"type":"diagnostic.noop","input":{},"metadata":{"n":%s}}' % text.encode()


def assert_refused(caller: Caller, reply: Reply, status: int, field: str | None) -> None:
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json
    assert problem["status"] == status
    assert problem.get("field") == field, problem
    assert problem["title"]
    assert problem["detail"]
    assert caller.get("/v1/tasks").json["tasks"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**NOOP, "frobnicate": 1}, "frobnicate"),
        ({"input": {}}, "type"),
        ({"type": "diagnostic.noop"}, "input"),
        ({**NOOP, "type": "no.such.type"}, "type"),
        ({**NOOP, "type": "x" * 5000}, "type"),
        ({**NOOP, "type": 5}, "type"),
        ({**NOOP, "type": "\0"}, "type"),
        ({**NOOP, "input": None}, "input"),
        ({**NOOP, "input": [1]}, "input"),
        ({**NOOP, "input": {"payload": 5}}, "input.payload"),
        ({**NOOP, "input": {"nothing": 5}}, "input.nothing"),
        ({**NOOP, "queue": "no-such-queue"}, "queue"),
        ({**NOOP, "queue": "\0"}, "queue"),
        ({**NOOP, "queue": 1}, "queue"),
        ({**NOOP, "priority": "5"}, "priority"),
        ({**NOOP, "priority": True}, "priority"),
        ({**NOOP, "priority": 10}, "priority"),
        ({**NOOP, "priority": -1}, "priority"),
        ({**NOOP, "priority": 5.5}, "priority"),
        ({**NOOP, "max_attempts": 0}, "max_attempts"),
        ({**NOOP, "max_attempts": 2**63}, "max_attempts"),
        ({**NOOP, "deadline_s": 0}, "deadline_s"),
        ({**NOOP, "deadline_s": True}, "deadline_s"),
        ({**NOOP, "deadline_s": 1e12}, "deadline_s"),
        ({**NOOP, "run_at": "2026-01-01T00:00:00"}, "run_at"),
        ({**NOOP, "run_at": "2026-01-01"}, "run_at"),
        ({**NOOP, "run_at": "tomorrow"}, "run_at"),
        ({**NOOP, "run_at": "2026-13-01T00:00:00Z"}, "run_at"),
        ({**NOOP, "run_at": "9999-12-31T23:59:59-23:00"}, "run_at"),
        ({**NOOP, "run_at": "3000-01-01T00:00:00Z"}, "run_at"),
        ({**NOOP, "run_at": 1767225600}, "run_at"),
        ({**NOOP, "metadata": []}, "metadata"),
        ({**NOOP, "metadata": {"a": {"b": ["\0"]}}}, "metadata.a.b[0]"),
        ({**NOOP, "metadata": {"a": nested(40)}}, None),
        ({**NOOP, "metadata": {"a": "x" * 20_000}}, "metadata"),
        (with_input(messages=[]), "input.messages"),
        (with_input(messages=[{"role": "user", "content": "a\0b"}]), "input.messages[0].content"),
        (with_input(messages=[{"role": "robot", "content": "x"}]), "input.messages[0].role"),
        (with_input(temperature="1"), "input.temperature"),
        (with_input(temperature=True), "input.temperature"),
        (with_input(stream=True), "input.stream"),
        (with_input(extra={"a": nested(33)}), None),
        (with_input(extra={"a": nested(300)}), "input"),
        (with_input(extra={"a": nested(900)}), "input"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else str(value),
)
def test_a_wrong_field_is_named(caller: Caller, body: dict[str, object], field: str | None) -> None:
    reply = caller.post("/v1/tasks", body)

    # Where the depth is passed the path is long: its beginning is enough.
    named = None if field is None else reply.json.get("field")
    if field is None:
        assert reply.json["field"].startswith(("metadata", "input"))
        named = field = reply.json["field"]
    assert named == field, reply.json
    assert_refused(caller, reply, 422, field)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b"nonsense", 400, "body"),
        (b"[]", 422, "body"),
        (b'[{"type":"diagnostic.noop","input":{}}]', 422, "body"),
        (b'"text"', 422, "body"),
        (b"null", 422, "body"),
        (b'{"type":"diagnostic.noop","input":{}} trailing', 400, "body"),
        (b'{"type":"diagnostic.noop","input":{"payload":"\xff"}}', 400, "body"),
        (b'\xef\xbb\xbf{"type":"diagnostic.noop","input":{}}', 400, "body"),
        (noop_with(r'"\ud800"'), 422, "input.payload"),
        (noop_with(r'"a\udc00b"'), 422, "input.payload"),
        (metadata_with(r'"\ud800"'), 422, "metadata.n"),
        (noop_with(r'"\u0000"'), 422, "input.payload"),
        (metadata_with("NaN"), 422, "metadata.n"),
        (metadata_with("Infinity"), 422, "metadata.n"),
        (metadata_with("-Infinity"), 422, "metadata.n"),
        (metadata_with("1e400"), 422, "metadata.n"),
        (metadata_with("18446744073709551616"), 422, "metadata.n"),
        (metadata_with("-9223372036854775809"), 422, "metadata.n"),
        (metadata_with("9" * 5000), 422, "metadata.n"),
        (metadata_with("[1,{}," + "7" * 30 + "]"), 422, "metadata.n[2]"),
        (metadata_with("[" * 5000 + "]" * 5000), 422, "metadata"),
        (metadata_with("[" * 5000), 422, "metadata"),
        (b'{"x":' * 5000 + b"1" + b"}" * 5000, 422, "x"),
        (b"[" * 100_000, 422, "body"),
    ],
    ids=lambda value: value[:50].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_what_is_not_json_is_told_with_its_place(caller: Caller, body: bytes, status: int, field: str) -> None:
    assert_refused(caller, caller.post("/v1/tasks", body), status, field)


def test_integers_of_64_bits_come_back_unchanged(caller: Caller) -> None:
    numbers = [2**63 - 1, -(2**63), 2**64 - 1, 2**53 + 1]

    task = caller.post("/v1/tasks", {**NOOP, "metadata": {"n": numbers}}).json

    assert task["metadata"] == {"n": numbers}


def test_long_digits_in_a_text_are_no_number(caller: Caller) -> None:
    assert caller.post("/v1/tasks", {**NOOP, "metadata": {"n": "7" * 50}}).status == 202


def test_of_members_with_the_same_name_the_last_counts(caller: Caller) -> None:
    body = b'{"type":"no.such.type","type":"diagnostic.noop","input":{},"priority":1,"priority":2}'

    assert caller.post("/v1/tasks", body).json["priority"] == 2


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 3 * 1024 * 1024])
def test_a_body_over_a_mebibyte_is_413(caller: Caller, size: int) -> None:
    body = noop_with('"' + "x" * (size - len(noop_with('""'))) + '"')
    assert len(body) == size

    assert_refused(caller, caller.post("/v1/tasks", body), 413, "body")


def test_a_body_of_a_mebibyte_is_accepted(caller: Caller) -> None:
    frame = len(noop_with('""'))

    assert caller.post("/v1/tasks", noop_with('"' + "x" * (1024 * 1024 - frame) + '"')).status == 202


def test_a_body_without_a_length_is_bounded_as_well(caller: Caller) -> None:
    parts = urlsplit(caller.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer " + caller.key.encode() + b"\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):
            connection.sendall(chunk)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert caller.get("/v1/tasks").json["tasks"] == []


def test_no_input_is_repeated_in_a_refusal(caller: Caller) -> None:
    secret = "the prompt nobody may see"
    bodies: list[object] = [
        with_input(messages=[{"role": secret, "content": 5}]),
        with_input(temperature=secret),
        with_input(messages=secret),
        {**CHAT, "priority": secret, "run_at": secret},
        json.dumps({"input": secret}).encode()[:-1],
    ]

    for body in bodies:
        reply = caller.post("/v1/tasks", body)
        assert 400 <= reply.status < 500
        assert secret.encode() not in reply.body
