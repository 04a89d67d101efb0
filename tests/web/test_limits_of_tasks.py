"""Limits of a key at the accept of tasks, over HTTP."""

from __future__ import annotations

from core.events.access import Limits
from tests.support.waiting import wait_until
from tests.web.serving import NOOP, Caller, Site

CHAT = {"type": "chat.completion", "input": {"model": "m", "messages": [{"role": "user", "content": "x" * 400}]}}


def caller_with(site: Site, limits: Limits) -> Caller:
    return site.caller.with_key(site.app.keys.create("limited", limits=limits).clear_key)


def test_a_batch_counts_each_of_its_tasks_and_is_refused_as_a_whole(site: Site) -> None:
    caller = caller_with(site, Limits(rpm=5))

    first = caller.post("/v1/tasks/batch", {"tasks": [NOOP] * 3})
    refused = caller.post("/v1/tasks/batch", {"tasks": [NOOP] * 3})
    rest = caller.post("/v1/tasks/batch", {"tasks": [NOOP] * 2})

    assert [first.status, refused.status, rest.status] == [202, 429, 202]
    assert '"rpm";r=2' in first.headers["ratelimit"]
    assert (refused.json["code"], refused.json["rule"], refused.json["remaining"]) == ("rate_limited", "rpm", 2)


def test_what_is_refused_for_another_reason_consumes_nothing(site: Site) -> None:
    caller = caller_with(site, Limits(rpm=1))

    assert caller.post("/v1/tasks", {**NOOP, "priority": 99}).status == 422
    assert caller.post("/v1/tasks", {**NOOP, "queue": "nowhere"}).status == 422
    assert caller.post("/v1/tasks", NOOP).status == 202
    assert caller.post("/v1/tasks", NOOP).status == 429


def test_a_request_that_is_sent_again_gets_its_task_also_when_the_limit_is_reached(site: Site) -> None:
    caller = caller_with(site, Limits(rpm=1, concurrency=1))
    first = caller.post("/v1/tasks", NOOP, **{"Idempotency-Key": "once"})

    again = caller.post("/v1/tasks", NOOP, **{"Idempotency-Key": "once"})
    another = caller.post("/v1/tasks", NOOP, **{"Idempotency-Key": "twice"})

    assert (first.status, again.status, another.status) == (202, 202, 429)
    assert again.json["id"] == first.json["id"]
    assert again.headers["idempotency-replayed"] == "true"


def test_a_place_is_free_again_when_a_task_is_final(site: Site) -> None:
    caller = caller_with(site, Limits(concurrency=1))
    task_id = caller.enqueue()
    refused = caller.post("/v1/tasks", NOOP)
    assert (refused.status, refused.json["rule"]) == (429, "concurrency")

    assert caller.post(f"/v1/tasks/{task_id}/cancel").status == 200

    wait_until(lambda: caller.post("/v1/tasks", NOOP).status == 202, 5, what="the place is free")


def test_tokens_are_reserved_by_an_estimate_and_given_back_by_a_cancel(site: Site) -> None:
    caller = caller_with(site, Limits(tpm=400))
    task = caller.post("/v1/tasks", CHAT)  # 100 for 400 characters, 256 for the answer
    assert (task.status, '"tpm";r=44' in task.headers["ratelimit"]) == (202, True)
    assert caller.post("/v1/tasks", CHAT).json["rule"] == "tpm"

    caller.post(f"/v1/tasks/{task.json['id']}/cancel")

    wait_until(lambda: caller.post("/v1/tasks", CHAT).status == 202, 5, what="the tokens are back")


def test_a_task_larger_than_the_whole_limit_is_told_that_it_never_passes(site: Site) -> None:
    reply = caller_with(site, Limits(tpm=100)).post("/v1/tasks", CHAT)

    assert (reply.status, reply.json["code"]) == (422, "over_limit")


def test_polls_and_cancels_do_not_count(site: Site) -> None:
    caller = caller_with(site, Limits(rpm=1))
    task_id = caller.enqueue()

    assert {caller.get(f"/v1/tasks/{task_id}").status for _ in range(20)} == {200}
    assert caller.post(f"/v1/tasks/{task_id}/cancel").status == 200
