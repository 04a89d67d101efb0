"""Limits without I/O: patched by events, confirmed by the refresh, read again when nobody is heard."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.access.keys.key_limits import FRESH_S, REMEMBERED, RENEW_S, SILENT_S, CountedLimits, KeyLimits
from core.access.keys.limits_refresh import BATCH, LimitsRefresh
from core.access.keys.model import VirtualKey
from core.access.keys.virtual_keys import VirtualKeys
from core.app import App
from core.errors import StoreUnavailable
from core.events.access import ChangedKey, KeysChanged, Limits, LimitsRefreshed
from core.ids import KeyId
from jobs.lookup import load_jobs
from jobs.spec import JobContext
from tests.support.key_processes import Processes


class Stores:
    """A table and copies in dictionaries, with a clock that is set by hand: limits are decided without any store."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rows: dict[str, VirtualKey] = {}
        self.copies: dict[str, CountedLimits] = {}
        self.is_away = False
        self.reads: list[list[str]] = []
        self.limits = KeyLimits(self.read, copy=self.copy, write=self.write, clock=lambda: self.now)

    def read(self, key_ids: Sequence[str]) -> list[VirtualKey]:
        self.reads.append(list(key_ids))
        if self.is_away:
            raise StoreUnavailable("away")
        return [self.rows[key_id] for key_id in key_ids if key_id in self.rows]

    def copy(self, entry_id: str, own: CountedLimits) -> CountedLimits:
        return self.copies.setdefault(entry_id, own)

    def write(self, entry_id: str, limits: CountedLimits) -> None:
        self.copies[entry_id] = limits


def key(id: str = "a", *, rpm: int | None = None, version: int = 1) -> VirtualKey:
    return VirtualKey(KeyId(id), "n", datetime(2026, 1, 1, tzinfo=UTC), limits=Limits(rpm=rpm), version=version)


def entry(of: VirtualKey, *hashes: str) -> ChangedKey:
    return ChangedKey(of.key_id, of.version, hashes, of.limits)


@pytest.fixture
def stores() -> Stores:
    return Stores()


def test_a_key_brings_its_limits_along_and_a_change_counts_at_once(stores: Stores) -> None:
    old = key(rpm=5)
    assert stores.limits.get(old) == Limits(rpm=5)

    stores.limits.apply(KeysChanged((entry(key(rpm=6, version=2)),)))

    assert stores.limits.get(old) == Limits(rpm=6)  # the snapshot in hand is older
    assert stores.limits.get(key(rpm=7, version=3)) == Limits(rpm=7)
    stores.limits.apply(KeysChanged((entry(key(rpm=6, version=2)),)))
    assert stores.limits.get(old) == Limits(rpm=7)
    assert stores.reads == []


def test_a_limit_that_is_cleared_is_gone_and_changes_of_strangers_are_not_remembered(stores: Stores) -> None:
    stores.limits.get(key(rpm=5))

    stores.limits.apply(KeysChanged((entry(key(version=2)), entry(key("b", rpm=1)))))

    assert stores.limits.get(key(rpm=5)) == Limits()
    assert len(stores.limits) == 1


def test_a_refresh_applies_what_changed_and_confirms_the_rest(stores: Stores) -> None:
    stores.limits.get(key(rpm=5))
    stores.now += 40
    assert stores.limits.age_s == 40

    stores.limits.apply(LimitsRefreshed((entry(key(rpm=6, version=2)),)))
    assert stores.limits.get(key()) == Limits(rpm=6)
    assert stores.limits.age_s == 0

    stores.now += 30
    stores.limits.apply(LimitsRefreshed(()))
    stores.limits.tick()
    assert (stores.limits.age_s, stores.limits.is_fresh, stores.reads) == (0, True, [])


def test_a_change_alone_does_not_confirm_what_it_does_not_name(stores: Stores) -> None:
    stores.limits.get(key())
    stores.now += 30

    stores.limits.apply(KeysChanged((entry(key(version=2)),)))

    assert stores.limits.age_s == 30


def test_who_hears_no_refresh_reads_all_remembered_keys_in_one_query(stores: Stores) -> None:
    for id in "abc":
        stores.limits.get(key(id, rpm=1))
    stores.rows = {id: key(id, rpm=2, version=2) for id in "ab"}

    stores.now += SILENT_S - 1
    stores.limits.tick()
    assert stores.reads == []
    stores.now += 1
    stores.limits.tick()
    stores.limits.tick()

    assert stores.reads == [["a", "b", "c"]]
    assert stores.limits.age_s == 0
    assert [stores.limits.get(key(id)).rpm for id in "ab"] == [2, 2]
    assert len(stores.limits) == 2  # c was deleted


def test_the_last_good_limits_go_on_while_nothing_can_be_read_and_their_age_is_told(stores: Stores) -> None:
    stores.limits.get(key(rpm=5))
    stores.is_away = True
    for _ in range(10):
        stores.now += 10
        stores.limits.tick()

    assert stores.limits.get(key()) == Limits(rpm=5)
    assert stores.limits.age_s == 100 > FRESH_S
    assert not stores.limits.is_fresh
    assert len(stores.reads) == 6

    stores.is_away = False
    stores.rows = {"a": key(rpm=6, version=2)}
    stores.now += 5
    stores.limits.tick()
    assert stores.limits.get(key()) == Limits(rpm=6)
    assert stores.limits.is_fresh


def test_after_a_gap_the_next_tick_reads_anew(stores: Stores) -> None:
    stores.limits.get(key())
    stores.limits.distrust()

    stores.limits.tick()

    assert stores.reads == [["a"]]


def test_memory_is_bounded_and_the_least_lately_used_goes_first(stores: Stores) -> None:
    for number in range(REMEMBERED):
        stores.limits.get(key(f"k{number}"))
    stores.limits.get(key("k0"))
    stores.limits.get(key("one more"))

    assert len(stores.limits) == REMEMBERED
    stores.limits.refresh()
    assert "k0" in stores.reads[0]
    assert "k1" not in stores.reads[0]


def test_a_process_that_sees_a_key_first_writes_the_copy_or_takes_a_newer_one(stores: Stores) -> None:
    stores.limits.learn("hash", key(rpm=5))
    assert stores.copies == {"hash": CountedLimits(Limits(rpm=5), 1)}

    stores.copies["other"] = CountedLimits(Limits(rpm=9), 7)
    stores.limits.learn("other", key("b", rpm=5, version=6))
    assert stores.limits.get(key("b", rpm=5, version=6)) == Limits(rpm=9)

    stores.limits.learn("other", key("b", rpm=4, version=8))
    assert stores.copies["other"] == CountedLimits(Limits(rpm=4), 8)


def test_copies_of_keys_in_use_are_renewed_before_they_end_and_others_are_left_to_end(stores: Stores) -> None:
    stores.limits.learn("used", key())
    stores.limits.learn("unused", key("b"))
    stores.rows = {"a": key(), "b": key("b")}
    stores.limits.get(key())
    stores.copies.clear()

    stores.now += RENEW_S
    stores.limits.tick()

    assert list(stores.copies) == ["used"]
    stores.copies.clear()
    stores.limits.tick()
    assert stores.copies == {}


def test_a_change_that_dropped_the_copy_has_it_written_again(stores: Stores) -> None:
    stores.limits.learn("hash", key())
    stores.limits.get(key())
    stores.copies.clear()

    stores.limits.apply(KeysChanged((entry(key(rpm=3, version=2), "hash"),)))
    stores.limits.tick()

    assert stores.copies == {"hash": CountedLimits(Limits(rpm=3), 2)}


def test_the_copy_in_redis_has_its_name_its_shape_and_five_minutes(
    shared: App, keys: VirtualKeys, process: Processes
) -> None:
    new = keys.create("n", limits=Limits(1, 2, 3, None))
    one = process()
    one.door.authenticate(new.clear_key)

    name = f"{shared.settings.instance_name}vkey_ratelimits:{one.peppers.entry_id(new.clear_key)}"
    copy = json.loads(one.link.client.get(name))  # type: ignore[arg-type] # (sync client)
    assert copy["value"] == {"rpm": 1, "rpd": 2, "tpm": 3, "concurrency": None, "version": 1}
    assert 240_000 < one.link.client.pttl(name) <= 300_000
    assert one.limits.get(new.key) == Limits(1, 2, 3, None)


def test_many_remembered_keys_are_one_query(keys: VirtualKeys, process: Processes) -> None:
    one = process()
    made = [keys.create("n", limits=Limits(rpm=1)) for _ in range(20)]
    for new in made:
        one.limits.get(new.key)
    for new in made:
        keys.update(new.key_id, rpm=2)

    assert one.limits.refresh() == 20
    assert one.queries == 1
    assert {one.limits.get(new.key).rpm for new in made} == {2}


class Heard:
    def __init__(self) -> None:
        self.told: list[LimitsRefreshed] = []

    def refresh(self, app: App) -> LimitsRefresh:
        connect = app.engine.execution_options(isolation_level="AUTOCOMMIT").connect
        return LimitsRefresh(connect, app.access.peppers, tell=self.told.append, write=app.access.limit_copies.write)


def test_the_job_tells_what_changed_lately_and_shows_that_it_lives_when_nothing_did(app: App) -> None:
    heard = Heard()
    job = load_jobs("jobs.periodic")["refresh_rate_limits"]
    fresh = replace(app, access=replace(app.access, limits_refresh=heard.refresh(app)))

    def run() -> Any:
        return job.run(
            JobContext(app=fresh, name=job.name, due_at=datetime.now(UTC), attempt=1, log=logging.getLogger("test"))
        )

    assert job.every == timedelta(seconds=30)
    assert run() == "told the limits of 0 keys"
    assert heard.told == [LimitsRefreshed(())]

    new = app.keys.create("n", limits=Limits(rpm=5))
    app.keys.rotate(new.key_id)
    app.keys.delete(app.keys.create("gone").key_id)
    run()

    [told] = heard.told[1:]
    found = {changed.key_id: changed for changed in told.keys}
    assert len(found) == 2
    assert (found[new.key_id].version, found[new.key_id].limits) == (2, Limits(rpm=5))
    hash = app.access.peppers.entry_id(new.clear_key)
    assert hash in found[new.key_id].hashes
    copy = app.cache.client.get(f"{app.settings.instance_name}vkey_ratelimits:{hash}")
    assert json.loads(copy)["value"]["version"] == 2  # type: ignore[arg-type] # (sync client)

    with app.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE virtual_keys DISABLE TRIGGER USER")
        connection.exec_driver_sql("UPDATE virtual_keys SET changed_at = now() - interval '3 minutes'")
        connection.exec_driver_sql("ALTER TABLE virtual_keys ENABLE TRIGGER USER")
    run()
    assert heard.told[2:] == [LimitsRefreshed(())]


def test_a_bulk_change_is_told_in_several_messages(app: App) -> None:
    heard = Heard()
    with app.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO virtual_keys (key_id, name, key_hash, pepper_version, created_at)"
                " SELECT lpad(n::text, 12, '0'), 'n', sha256(n::text::bytea), 9, now() FROM generate_series(1, :n) n"
            ),
            {"n": 2 * BATCH + 1},
        )

    assert heard.refresh(app).run() == 2 * BATCH + 1

    assert [len(told.keys) for told in heard.told] == [BATCH, BATCH, 1]
    assert len({changed.key_id for told in heard.told for changed in told.keys}) == 2 * BATCH + 1
