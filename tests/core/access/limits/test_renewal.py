"""Leases of concurrent tasks follow the rows that are not final."""

from __future__ import annotations

import threading

import pytest

from core.access.limits.limiter import Limiter
from core.access.limits.model import Ask, Slots
from core.access.limits.renewal import ConcurrencyRenewal, renew_leases
from core.app import App
from core.connections import RedisAway, RedisLink
from core.ids import KeyId
from core.task_types.diagnostic import DiagnosticNoop


@pytest.fixture
def owner(app: App) -> KeyId:
    """A key that may have three tasks at a time."""
    key_id = app.keys.create(name="limited").key_id
    with app.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE virtual_keys SET concurrency = 3 WHERE key_id = %(id)s", {"id": key_id})
    return key_id


def leases(app: App, owner: KeyId) -> set[str]:
    found = app.cache.client.zrange(app.access.limit_keys.concurrency(owner), 0, -1)
    return {member.decode() for member in found if isinstance(member, bytes)}


def test_after_redis_lost_everything_the_limit_is_right_again(app: App, owner: KeyId) -> None:
    tasks = [app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id for _ in range(3)]
    app.tasks.enqueue(DiagnosticNoop(), owner=app.keys.create(name="unlimited").key_id)
    assert app.access.renewal.tick()
    app.cache.client.flushdb()

    assert ConcurrencyRenewal(app.engine, app.access.limiter, app.access.limit_keys, app.cache).tick()

    assert leases(app, owner) == set(tasks)
    ask = Ask((), None, Slots(app.access.limit_keys.concurrency(owner), 3, ("one more",)))
    assert not app.access.limiter.decide(ask).allowed
    assert len(app.cache.client.keys("*concurrency")) == 1


def test_final_tasks_are_not_renewed(app: App, owner: KeyId) -> None:
    kept, ended = (app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id for _ in range(2))
    renew_leases(app.engine, app.access.limiter, app.access.limit_keys)
    app.tasks.cancel(ended)

    renew_leases(app.engine, app.access.limiter, app.access.limit_keys)

    assert leases(app, owner) == {kept}


def test_one_process_at_a_time_renews(app: App, owner: KeyId) -> None:
    renewals = [ConcurrencyRenewal(app.engine, app.access.limiter, app.access.limit_keys, app.cache) for _ in range(6)]

    assert sum(renewal.tick() for renewal in renewals) == 1
    assert 10_000 < app.cache.client.pttl(app.access.limit_keys.renewal) <= 15_000


def test_a_process_looks_every_other_second_only(app: App) -> None:
    now = 100.0
    renewal = ConcurrencyRenewal(app.engine, app.access.limiter, app.access.limit_keys, app.cache, clock=lambda: now)
    assert renewal.tick()
    app.cache.client.flushdb()

    now = 101.9
    assert not renewal.tick()
    now = 102.1
    assert renewal.tick()


class _EndsTasks(Limiter):
    """A limiter under which a task ends just before its lease is renewed: the worst moment."""

    def __init__(self, app: App) -> None:
        super().__init__(app.cache, app.access.limiter.fallback)
        self.app = app
        self.to_end: list[str] = []

    def renew(self, redis_key: str, leases: object, **more: object) -> list[str]:
        for public_id in self.to_end:
            self.app.tasks.cancel(public_id)
        return super().renew(redis_key, leases, **more)  # type: ignore[arg-type]  # handed on as it came


def test_a_task_that_ends_while_leases_are_renewed_leaves_none(app: App, owner: KeyId) -> None:
    limiter = _EndsTasks(app)
    kept, ended = (app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id for _ in range(2))
    limiter.to_end = [ended]

    renew_leases(app.engine, limiter, app.access.limit_keys)

    assert leases(app, owner) == {kept}


def test_tasks_that_end_in_many_threads_while_leases_are_renewed_leave_none(app: App, owner: KeyId) -> None:
    stop = threading.Event()

    def renew_on_and_on() -> None:
        while not stop.is_set():
            renew_leases(app.engine, app.access.limiter, app.access.limit_keys)

    thread = threading.Thread(target=renew_on_and_on)
    thread.start()
    try:
        for _ in range(60):
            app.tasks.cancel(app.tasks.enqueue(DiagnosticNoop(), owner=owner).public_id)
    finally:
        stop.set()
        thread.join(20)

    assert leases(app, owner) == set()


def test_without_redis_a_tick_does_nothing(app: App) -> None:
    nowhere = RedisLink("redis://127.0.0.1:1/0")
    assert not ConcurrencyRenewal(app.engine, app.access.limiter, app.access.limit_keys, nowhere).tick()
    assert not ConcurrencyRenewal(app.engine, app.access.limiter, app.access.limit_keys, None).tick()
    with pytest.raises(RedisAway):
        Limiter(None, app.access.limiter.fallback).renew("c", ["a"])
