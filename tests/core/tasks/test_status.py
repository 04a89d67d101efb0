from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis

from core.app import App
from core.ids import KeyId, new_public_id, new_task_id
from core.tasks.model import Stamp, Task, TaskState
from core.tasks.status import FinalStatuses, Source, Status, StatusReader, decode, encode, redis_time_ms, status_of

BASE = datetime(2026, 1, 1, tzinfo=UTC)


def task(version: int, *, state: TaskState = TaskState.PROCESSING, result: str | None = None) -> Task:
    return Task(
        id=new_task_id(),
        public_id=new_public_id(),
        owner_id=KeyId("owner0000001"),
        type="diagnostic.noop",
        queue="default",
        priority=5,
        state=state,
        version=version,
        changed_at=BASE + timedelta(milliseconds=version),
        attempt=1,
        max_attempts=3,
        created_at=BASE,
        run_at=BASE,
        result_json=result,
    )


def now_ms(app: App) -> int:
    found = app.copies.now_ms()
    assert found is not None
    return found


def life_ms(app: App, of: Task) -> int:
    client: redis.Redis = app.cache.client
    return int(client.pttl(app.status_keys.of(of.public_id)))


def test_a_copy_survives_the_round_trip_with_its_body_untouched() -> None:
    status = status_of(task(3, state=TaskState.COMPLETED, result='{"a": 1.0, "b": "\\u0000"}'))

    back = decode(status.public_id, encode(status, 17))

    assert back == replace(status, source=Source.REDIS)


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"null", b'{"version":1,"task":{', b'{"version":"x","task":{}}', b"\xff" * 600]
)
def test_junk_under_the_key_is_a_miss(junk: bytes) -> None:
    assert decode(new_public_id(), junk) is None


def test_a_final_copy_lives_two_hours_and_a_live_one_until_a_second_after_it_was_read(app: App) -> None:
    final, live = task(3, state=TaskState.COMPLETED), task(2)
    as_of = now_ms(app) - 400

    for one in (final, live):
        app.copies.fill(status_of(one), as_of)

    assert 7_190_000 < life_ms(app, final) <= 7_200_000
    assert 0 < life_ms(app, live) <= 600


def test_a_live_copy_that_comes_a_second_late_is_refused(app: App) -> None:
    late = task(2)

    app.copies.fill(status_of(late), now_ms(app) - 1000)

    assert app.copies.get(late.public_id) is None


def test_a_late_newer_copy_takes_the_older_one_away(app: App) -> None:
    old = task(2)
    new = replace(old, version=3, changed_at=old.changed_at + timedelta(seconds=1))
    app.copies.fill(status_of(old), now_ms(app))

    app.copies.fill(status_of(new), now_ms(app) - 2000)

    assert app.copies.get(old.public_id) is None


def test_random_readers_and_writers_leave_the_newest_copy_or_a_mark_that_answers_nobody(app: App) -> None:
    rng = random.Random(7)
    for _ in range(60):
        first = task(1)
        versions = [replace(first, version=v, changed_at=BASE + timedelta(seconds=v)) for v in range(1, 8)]
        rng.shuffle(versions)
        told = [(one, rng.random() < 0.5) for one in versions[: rng.randint(1, len(versions))]]
        for one, announced in told:
            if announced:
                app.copies.announce([one])
            else:
                app.copies.fill(status_of(one), now_ms(app))

        newest, marked = max(told, key=lambda pair: pair[0].version)
        found = app.copies.get(first.public_id)
        assert (found is None) == marked
        assert found is None or found.stamp == newest.stamp


def test_a_mark_keeps_an_older_copy_out_and_ends_within_a_second(app: App) -> None:
    old = task(2)
    new = replace(old, version=3, changed_at=BASE + timedelta(seconds=1))
    app.copies.announce([new])

    app.copies.fill(status_of(old), now_ms(app))

    assert app.copies.get(old.public_id) is None
    assert 0 < life_ms(app, old) <= 1000


def test_announcing_what_a_copy_says_already_leaves_the_copy(app: App) -> None:
    live = task(2)
    app.copies.fill(status_of(live), now_ms(app))

    app.copies.announce([live])

    assert app.copies.get(live.public_id) is not None


def test_an_old_version_never_replaces_a_final_one(app: App) -> None:
    final = task(3, state=TaskState.COMPLETED)
    app.copies.fill(status_of(final), None)

    app.copies.fill(status_of(replace(final, version=2, state=TaskState.PROCESSING)), now_ms(app))

    found = app.copies.get(final.public_id)
    assert found is not None
    assert found.is_final


def test_another_type_under_the_key_is_a_miss_and_is_replaced(app: App) -> None:
    final = task(3, state=TaskState.COMPLETED)
    client: redis.Redis = app.cache.client
    client.lpush(app.status_keys.of(final.public_id), "junk")
    assert app.copies.get(final.public_id) is None

    app.copies.fill(status_of(final), None)

    assert app.copies.get(final.public_id) is not None


def test_the_script_works_after_the_server_forgot_it(app: App) -> None:
    final = task(3, state=TaskState.COMPLETED)
    app.copies.fill(status_of(final), None)
    app.cache.client.script_flush()

    assert app.copies.announce([final])


def test_announcing_wakes_who_waits_with_the_version(app: App) -> None:
    live = task(2)
    with app.cache.client.pubsub() as waiter:  # type: ignore[no-untyped-call]  # redis-py 8.1 leaves it untyped
        waiter.subscribe(app.status_keys.of(live.public_id))
        waiter.get_message(timeout=2)

        app.copies.announce([live])

        message = waiter.get_message(timeout=2)
    assert message is not None
    assert Stamp.from_etag(message["data"].decode()) == live.stamp


def test_a_reader_that_saw_a_newer_version_is_answered_from_the_row(app: App) -> None:
    old = task(2)
    new = replace(old, version=3, changed_at=BASE + timedelta(seconds=1))
    app.copies.fill(status_of(old), now_ms(app))
    reader = StatusReader(app.copies, lambda _: new)

    assert _version(reader.read(old.public_id)) == 2
    assert _version(reader.read(old.public_id, at_least=new.stamp)) == 3


def test_final_statuses_are_answered_from_memory_without_asking(app: App) -> None:
    final = task(3, state=TaskState.COMPLETED)
    asked: list[str] = []

    def read_row(public_id: str) -> Task:
        asked.append(public_id)
        return final

    reader = StatusReader(app.copies, read_row)

    sources = [_source(reader.read(final.public_id)) for _ in range(3)]

    assert sources == [Source.DATABASE, Source.MEMORY, Source.MEMORY]
    assert len(asked) == 1


def test_memory_is_bounded_by_bytes_and_keeps_what_was_read_last() -> None:
    memory = FinalStatuses(limit_bytes=20_000)
    tasks = [task(3, state=TaskState.COMPLETED, result='"' + "x" * 1000 + '"') for _ in range(50)]
    for one in tasks:
        memory.put(status_of(one))
        memory.get(tasks[0].public_id)

    kept = [one for one in tasks if memory.get(one.public_id)]

    assert tasks[0] in kept
    assert tasks[-1] in kept
    assert len(kept) < 20


def test_live_statuses_never_enter_memory() -> None:
    memory = FinalStatuses()
    live = task(2)
    memory.put(status_of(live))
    assert memory.get(live.public_id) is None


@pytest.mark.parametrize("text", ["", '"1"', '"1-x"', "*", '"-1-2"', '"1-' + "9" * 30 + '"', '"１-2"'])
def test_etags_that_we_did_not_make_are_none(text: str) -> None:
    assert Stamp.from_etag(text) is None


def test_an_etag_finds_its_way_back() -> None:
    stamp = Stamp(3, 1_767_225_600_000_000)
    assert Stamp.from_etag(stamp.etag) == stamp
    assert Stamp.from_etag("W/" + stamp.etag) == stamp


def test_redis_time_is_in_milliseconds(app: App) -> None:
    assert abs(redis_time_ms(app.cache.client) - datetime.now(UTC).timestamp() * 1000) < 60_000


def _version(status: Status | None) -> int:
    assert status is not None
    return status.stamp.version


def _source(status: Status | None) -> Source:
    assert status is not None
    return status.source
