"""A process hears of every change of a right: at once by the log, within seconds without it."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from functools import partial

import pytest
import redis
import sqlalchemy as sa

from core.access.changes.log import ChangeLog, LogKeys
from core.app import App, open_app
from core.connections import autocommit
from core.events.access import EntriesDropped, KeysChanged, LimitsRefreshed
from tests.support.rights import Rights, disable_unheard, enable_unheard, new_key
from tests.support.waiting import wait_until

ROUNDS = 1000  # of two changes each


@pytest.fixture
def log_keys(app: App) -> LogKeys:
    return LogKeys(app.settings.instance_name)


def cache(app: App) -> redis.Redis:
    assert app.settings.redis_url is not None
    return redis.Redis.from_url(app.settings.redis_url.get_secret_value())


def is_refused(rights: Rights, key_hash: str) -> bool:
    return not rights.may_use(key_hash)


def test_a_disabled_key_is_refused_within_milliseconds(app: App, rights: Rights) -> None:
    took: list[float] = []
    for _ in range(100):
        key_id, key_hash = new_key(app)
        assert rights.may_use(key_hash)
        app.keys.disable(key_id)
        disabled_at = time.monotonic()
        wait_until(partial(is_refused, rights, key_hash), 5, every=0.0005)
        took.append(time.monotonic() - disabled_at)

    assert sorted(took)[98] < 0.05, sorted(took)[90:]


def test_the_state_that_was_committed_last_is_believed_after_thousands_of_races(app: App, rights: Rights) -> None:
    key_id, key_hash = new_key(app)
    barrier = threading.Barrier(2, timeout=30)
    stop = threading.Event()

    def read() -> None:
        barrier.wait()
        while not stop.wait(0.0001):
            rights.may_use(key_hash)

    reader = threading.Thread(target=read)
    reader.start()
    barrier.wait()
    try:
        for _ in range(ROUNDS):
            app.keys.disable(key_id)
            wait_until(lambda: not rights.may_use(key_hash), 5, every=0.0002)
            enable_unheard(app, key_id)
            app.access.changes.relay()
            wait_until(lambda: rights.may_use(key_hash), 5, every=0.0002)
    finally:
        stop.set()
        reader.join()
    assert rights.gaps <= 2


def test_a_change_that_nobody_relayed_is_heard_within_five_seconds(app: App, rights: Rights) -> None:
    key_id, key_hash = new_key(app)
    assert rights.may_use(key_hash)

    disable_unheard(app, key_id)
    disabled_at = time.monotonic()
    wait_until(lambda: not rights.may_use(key_hash), 6)

    assert time.monotonic() - disabled_at < 5


def test_a_transaction_that_commits_late_is_heard_within_five_seconds_of_its_commit(app: App, rights: Rights) -> None:
    key_id, key_hash = new_key(app)
    assert rights.may_use(key_hash)

    with app.engine.begin() as connection:
        connection.execute(sa.text("UPDATE virtual_keys SET disabled_at = now() WHERE key_id = :id"), {"id": key_id})
        # Written down long before the commit that makes it visible; and told to a log that is not this one.
        change = "UPDATE access_changes SET created_at = now() - interval '40 s', relayed_at = clock_timestamp()"
        connection.execute(sa.text(change))
    committed_at = time.monotonic()
    wait_until(lambda: not rights.may_use(key_hash), 6)

    assert time.monotonic() - committed_at < 5


def test_a_change_leaves_tombstones_in_the_place_of_copies(app: App, rights: Rights) -> None:
    key_id, key_hash = new_key(app)
    limits = f"{app.settings.instance_name}vkey_ratelimits:{key_hash}"
    with cache(app) as client:
        client.set(f"vkey:{key_hash}", b'{"version":9000,"epoch":"x","mac":"forged","value":{}}')
        client.set(limits, b"{}")
        app.keys.disable(key_id)

        assert client.get(f"vkey:{key_hash}") == b'{"version":2,"tombstone":true}'
        assert 55_000 < client.pttl(f"vkey:{key_hash}") <= 60_000
        assert client.get(limits) == b'{"version":2,"tombstone":true}'

        # Relayed late and once more, an older change changes nothing.
        client.set(f"vkey:{key_hash}", b'{"version":7,"tombstone":true}', px=50_000)
        enable_unheard(app, key_id)
        app.access.changes.relay()
        assert client.get(f"vkey:{key_hash}") == b'{"version":7,"tombstone":true}'


def test_a_message_without_a_row_reaches_every_listener(app: App, rights: Rights) -> None:
    heard: list[object] = []
    app.access.watch.listen(EntriesDropped, heard.append)
    app.access.watch.listen(LimitsRefreshed, heard.append)

    app.access.changes.tell(EntriesDropped("virtual_keys", ("a", "b")))
    app.access.changes.tell(LimitsRefreshed(()))

    wait_until(lambda: len(heard) == 2, 2)
    assert heard == [EntriesDropped("virtual_keys", ("a", "b")), LimitsRefreshed(())]


def test_a_listener_that_fails_keeps_no_other_from_hearing(
    app: App, rights: Rights, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object = None) -> None:
        raise RuntimeError("a mistake")

    app.access.watch.listen(KeysChanged, fail)
    later: list[KeysChanged] = []
    app.access.watch.listen(KeysChanged, later.append)

    with caplog.at_level(logging.ERROR):
        key_id, _ = new_key(app)
        app.keys.disable(key_id)
        wait_until(lambda: later, 2)

    assert app.access.watch.is_alive()
    assert "RuntimeError: a mistake" in caplog.text


def test_a_trimmed_log_is_a_gap_and_the_truth_is_read_again(app: App, rights: Rights, log_keys: LogKeys) -> None:
    key_id, key_hash = new_key(app)
    wait_until(lambda: rights.heard[key_id], 2)
    assert rights.may_use(key_hash)
    gaps = rights.gaps
    # A slow listener keeps the thread from reading, while the log goes on and is cut.
    stalled, go_on = threading.Event(), threading.Event()

    def stall(_: EntriesDropped) -> None:
        stalled.set()
        go_on.wait(10)

    app.access.watch.listen(EntriesDropped, stall)
    app.access.changes.tell(EntriesDropped("any", None))
    assert stalled.wait(2)
    app.keys.disable(key_id)
    with cache(app) as client:
        client.xtrim(log_keys.log, maxlen=0, approximate=False)
    go_on.set()
    wait_until(lambda: not rights.may_use(key_hash), 1)

    assert rights.gaps > gaps


@pytest.mark.parametrize("loss", ["flushed", "head deleted", "another server", "went back", "junk", "log is junk"])
def test_a_log_that_lost_its_memory_begins_a_new_epoch(app: App, rights: Rights, log_keys: LogKeys, loss: str) -> None:
    before = app.access.watch.epoch()
    key_id, key_hash = new_key(app)
    assert rights.may_use(key_hash)
    gaps = rights.gaps
    with cache(app) as client:
        match loss:
            case "flushed":
                client.flushdb()
            case "head deleted":
                client.delete(log_keys.head)
            case "another server":  # one that was given the data of the first
                client.hset(log_keys.head, "run_id", "0" * 40)
            case "went back":
                app.keys.create("another")
                app.access.changes.relay()
                wait_until(lambda: rights.heard.total() >= 2, 2)
                client.hset(log_keys.head, "seq", 0)
            case "junk":
                client.delete(log_keys.head)
                client.set(log_keys.head, "junk")
            case _:
                client.delete(log_keys.log)
                client.set(log_keys.log, "junk")
                app.keys.disable(key_id)
                wait_until(lambda: not rights.may_use(key_hash), 2)
                return
        wait_until(lambda: rights.gaps > gaps, 3)

    assert wait_until(app.access.watch.epoch, 3) != before
    disable_unheard(app, key_id)
    app.access.changes.relay()
    wait_until(lambda: not rights.may_use(key_hash), 1)
    with cache(app) as client:
        assert int(client.hget(log_keys.head, "seq") or 0) >= 1


def test_two_processes_that_find_no_epoch_agree_on_one(app: App, log_keys: LogKeys) -> None:
    log = ChangeLog(app.cache, log_keys)
    for _ in range(200):
        with cache(app) as client:
            client.delete(log_keys.head)
        barrier = threading.Barrier(4, timeout=10)
        found: list[str] = []

        def look(barrier: threading.Barrier = barrier, found: list[str] = found) -> None:
            barrier.wait()
            found.append(log.read("", 0).epoch)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1, found


def test_a_change_of_very_many_keys_is_one_message_that_makes_everybody_forget(app: App, rights: Rights) -> None:
    _, key_hash = new_key(app)
    assert rights.may_use(key_hash)
    with autocommit(app.engine).connect() as connection:
        connection.execute(
            sa.text(
                """
                INSERT INTO virtual_keys (key_id, name, key_hash, pepper_version, allowed_types, allowed_models,
                    version, created_at, changed_at)
                SELECT 'many' || n, 'many', decode(md5(n::text), 'hex'), 1, '{}', '{}', 1, now(), now()
                FROM generate_series(1, 5000) n
                """
            )
        )
        app.access.changes.relay()
        gaps = rights.gaps
        connection.execute(sa.text("UPDATE virtual_keys SET disabled_at = now()"))
    app.access.changes.relay()

    wait_until(lambda: not rights.may_use(key_hash), 2)
    assert rights.gaps > gaps
    with cache(app) as client:
        one = hashlib.md5(b"1", usedforsecurity=False).hexdigest()
        assert client.get(f"vkey:{one}") == b'{"version":2,"tombstone":true}'


def test_the_lag_is_measured_by_canaries_of_others(app: App, rights: Rights) -> None:
    with open_app(app.settings) as other:
        other.access.watch.start()
        wait_until(lambda: app.access.watch.lag().count + other.access.watch.lag().count >= 3, 10)
        report = max(app.access.watch.lag(), other.access.watch.lag(), key=lambda r: r.count)

    assert 0 <= report.p50_s <= report.p99_s <= report.max_s < 1.5


def test_live_doors_are_counted_by_their_heartbeat(app: App) -> None:
    app.access.watch.start(is_door=True)
    with open_app(app.settings) as other:
        other.access.watch.start(is_door=True)
        wait_until(lambda: app.access.watch.live_doors == 2, 5)
    wait_until(lambda: app.access.watch.live_doors == 1, 5)
    # One that was killed is silent.
    with autocommit(app.engine).connect() as connection:
        connection.execute(
            sa.text("INSERT INTO doors VALUES (gen_random_uuid(), 'h', 1, now(), now() - interval '6 s')")
        )
        wait_until(lambda: app.access.watch.live_doors == 2, 5)
        wait_until(lambda: app.access.watch.live_doors == 1, 5)
        app.access.watch.close()
        left = connection.execute(sa.text("SELECT count(*) FROM doors WHERE pid <> 1")).scalar_one()
    assert left == 0


def test_a_watch_that_was_not_started_trusts_nothing(app: App) -> None:
    assert not app.access.watch.is_current()
    assert app.access.watch.epoch() is None
    assert app.access.watch.live_doors == 1
