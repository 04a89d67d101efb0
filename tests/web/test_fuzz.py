"""Whatever is sent, the answer is never a 5xx, and a refusal is a problem document."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.web.serving import NOOP, Reply, Site

quickly = settings(
    max_examples=250,
    deadline=None,
    database=None,
    derandomize=True,  # the same examples in each run: a failure here is a finding, not bad luck
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\0", "\ud800", "default", "diagnostic.noop", "2026-01-01T00:00:00Z", "1e999"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    ["type", "input", "queue", "priority", "run_at", "max_attempts", "deadline_s", "metadata", "tasks", "x"]
)
segments = st.sampled_from(
    ["v1", "tasks", "batch", "cancel", "retry", "live", "ready", "task_" + "0" * 32, "%00", "%FF", "..", "a%20b"]
)
types = st.sampled_from(["diagnostic.noop", "chat.completion", "embedding", "image.generation", "video.generation"])
tasks = st.builds(
    lambda type, input, more: {"type": type, "input": input, **more},
    types,
    st.dictionaries(st.sampled_from(["model", "messages", "input", "prompt", "extra", "n", "payload"]), json_values),
    st.dictionaries(fields, json_values, max_size=3),
)


def check(reply: Reply) -> None:
    assert reply.status < 500, reply
    if reply.status >= 400:
        problem: dict[str, Any] = reply.json
        assert reply.headers["content-type"] == "application/problem+json"
        assert problem["status"] == reply.status
        assert problem["detail"]


@quickly
@given(json_values | tasks)
@example({**NOOP, "metadata": {"\ud800": 1}})
@example({**NOOP, "metadata": {"a\0": 1}})
def test_any_json_as_a_task(site: Site, body: object) -> None:
    check(site.caller.post("/v1/tasks", json.dumps(body).encode()))


@quickly
@given(st.lists(json_values | tasks, max_size=4))
def test_any_json_as_a_batch(site: Site, body: list[object]) -> None:
    check(site.caller.post("/v1/tasks/batch", json.dumps({"tasks": body}).encode()))


@quickly
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_body(site: Site, body: bytes) -> None:
    check(site.caller.post("/v1/tasks", body))


@quickly
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
    st.lists(segments, max_size=5),
    st.text("=&?%abc0123456789-_.~", max_size=30),
)
def test_any_path_and_query(site: Site, method: str, parts: list[str], query: str) -> None:
    reply = site.caller.send(method, "/" + "/".join(parts) + "?" + query)

    if method == "HEAD":
        assert reply.status < 500
    else:
        check(reply)


@quickly
@given(
    st.dictionaries(
        st.sampled_from(["Idempotency-Key", "If-None-Match", "Content-Encoding", "Accept", "Content-Type"]),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40),
    )
)
def test_any_headers(site: Site, headers: dict[str, str]) -> None:
    check(site.caller.send("POST", "/v1/tasks", json.dumps(NOOP).encode(), headers))
    check(site.caller.send("GET", f"/v1/tasks/task_{'0' * 32}", headers=headers))
