"""`?wait=N`: told at once, never late, never stuck."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median

import pytest
import redis

from core.tasks.model import TaskState
from tests.support.waiting import wait_until
from tests.web.moves import claim, finish, progress
from tests.web.serving import NOOP, Caller, Reply, Site


def timed(caller: Caller, path: str, **headers: str) -> tuple[Reply, float]:
    reply = caller.get(path, **headers)
    return reply, time.monotonic()


def test_without_a_change_the_answer_comes_when_the_time_is_up(caller: Caller) -> None:
    task_id = caller.enqueue()
    etag = caller.get(f"/v1/tasks/{task_id}").etag

    began = time.monotonic()
    current = caller.get(f"/v1/tasks/{task_id}?wait=1")
    unchanged = caller.get(f"/v1/tasks/{task_id}?wait=1", If_None_Match=etag)
    took = time.monotonic() - began

    assert (current.status, current.json["state"]) == (200, "pending")
    assert unchanged.status == 304
    assert 2 <= took < 3


def test_a_final_task_is_answered_at_once(caller: Caller) -> None:
    task_id = caller.enqueue()
    etag = caller.post(f"/v1/tasks/{task_id}/cancel").etag

    began = time.monotonic()
    assert caller.get(f"/v1/tasks/{task_id}?wait=60").json["state"] == "cancelled"
    assert caller.get(f"/v1/tasks/{task_id}?wait=60", If_None_Match=etag).status == 304
    assert time.monotonic() - began < 1


def test_an_old_version_is_answered_at_once(caller: Caller, site: Site, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})
    etag = caller.get(f"/v1/tasks/{task_id}").etag
    claim(site.app, queue=queue)

    began = time.monotonic()
    reply = caller.get(f"/v1/tasks/{task_id}?wait=60", If_None_Match=etag)

    assert reply.json["state"] == "processing"
    assert time.monotonic() - began < 1, reply


@pytest.mark.alone
def test_a_waiter_is_woken_by_the_next_version_within_50_ms(caller: Caller, site: Site, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})
    claimed = claim(site.app, queue=queue)
    late: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        for percent in range(20):
            seen = caller.get(f"/v1/tasks/{task_id}")
            waiting = pool.submit(timed, caller, f"/v1/tasks/{task_id}?wait=30", If_None_Match=seen.etag)
            wait_until(lambda: _subscribed(site, task_id), 5, every=0.001)
            progress(site.app, claimed, percent)
            committed = time.monotonic()
            reply, answered = waiting.result(10)
            late.append(answered - committed)
            assert reply.status == 200
            assert reply.json["progress"]["percent"] == percent
            assert reply.json["version"] == seen.json["version"] + 1

    assert median(late) < 0.05, late


def test_without_a_condition_only_the_end_wakes(caller: Caller, site: Site, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(timed, caller, f"/v1/tasks/{task_id}?wait=30")
        wait_until(lambda: _subscribed(site, task_id), 5)
        claimed = claim(site.app, queue=queue)
        progress(site.app, claimed, 50)
        assert not waiting.done()
        finish(site.app, claimed)
        ended = time.monotonic()
        reply, answered = waiting.result(10)

    assert reply.json["state"] == "completed"
    assert answered - ended < 0.5


def test_many_waiters_of_one_task_are_all_woken(caller: Caller, site: Site, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(caller.get, f"/v1/tasks/{task_id}?wait=30") for _ in range(50)]
        wait_until(lambda: _subscribed(site, task_id), 5)
        finish(site.app, claim(site.app, queue=queue), TaskState.FAILED)
        states = {reply.result(5).json["state"] for reply in waiting}

    assert states == {"failed"}


def test_a_lost_wake_up_costs_seconds_and_not_the_whole_wait(caller: Caller, site: Site, queue: str) -> None:
    task_id = caller.enqueue({**NOOP, "queue": queue})
    claimed = claim(site.app, queue=queue)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(timed, caller, f"/v1/tasks/{task_id}?wait=30")
        wait_until(lambda: _subscribed(site, task_id), 5)
        finish(site.app, claimed, announced=False)
        ended = time.monotonic()
        reply, answered = waiting.result(10)

    assert reply.json["state"] == "completed"
    assert answered - ended < 4


def test_a_waiter_outlives_its_subscription(own_site: Site) -> None:
    caller, app = own_site.caller, own_site.app
    task_id = caller.enqueue()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(timed, caller, f"/v1/tasks/{task_id}?wait=30")
        wait_until(lambda: _subscribed(own_site, task_id), 5)
        with _redis(own_site) as connection:
            connection.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: _subscribed(own_site, task_id), 5, what="it subscribes again")
        finish(app, claim(app))
        ended = time.monotonic()
        reply, answered = waiting.result(10)

    assert reply.json["state"] == "completed"
    assert answered - ended < 0.5


def test_a_client_that_leaves_frees_its_waiter(own_site: Site) -> None:
    task_id = own_site.caller.enqueue()
    impatient = Caller(own_site.caller.url, own_site.caller.key, timeout_s=0.3)

    with pytest.raises(TimeoutError):
        impatient.get(f"/v1/tasks/{task_id}?wait=60")

    wait_until(lambda: not _subscribed(own_site, task_id), 3, what="the subscription ends")


def test_a_stopping_process_answers_its_waiters(own_site: Site) -> None:
    task_id = own_site.caller.enqueue()
    with ThreadPoolExecutor(5) as pool:
        waiting: list[Future[Reply]] = [
            pool.submit(own_site.caller.get, f"/v1/tasks/{task_id}?wait=60") for _ in range(5)
        ]
        wait_until(lambda: _subscribed(own_site, task_id), 5)
        began = time.monotonic()
        status = own_site.web.stop()
        states = {reply.result(5).json["state"] for reply in waiting}

    assert status == 0
    assert states == {"pending"}
    assert time.monotonic() - began < 5


def _subscribed(site: Site, task_id: str) -> bool:
    channel = site.app.settings.instance_name + "async:task:" + task_id
    with _redis(site) as connection:
        (_, number), *_ = connection.pubsub_numsub(channel)
    return bool(number)


def _redis(site: Site) -> redis.Redis:
    url = site.app.settings.redis_url
    assert url is not None
    return redis.Redis.from_url(url.get_secret_value())
