"""Who is let in, from which copy, for how long, and at what cost to the database."""

from __future__ import annotations

import json
import logging
import secrets
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from core.access.keys.authenticator import Outcome
from core.access.keys.copies import KEY_LIFE_S, decode_key, encode_key
from core.access.keys.gate import BURST, LOOKUPS_PER_S, Gate
from core.access.keys.model import VirtualKey
from core.access.keys.text import new_clear_key, new_key_id
from core.access.keys.virtual_keys import VirtualKeys
from core.app import App
from core.errors import StoreUnavailable, Unavailable
from core.events.access import ChangedKey, KeysChanged, Limits
from tests.support.key_processes import Process, Processes
from tests.support.waiting import wait_until


def unknown_key() -> str:
    return new_clear_key(new_key_id())


def test_a_key_is_found_in_the_database_then_in_memory_and_by_another_process_in_redis(
    keys: VirtualKeys, process: Processes
) -> None:
    new = keys.create("n", group="g", limits=Limits(rpm=5))
    one, other = process(), process(has_database=False)
    assert one.door.peek(new.clear_key) is None

    found = one.door.authenticate(new.clear_key)
    assert (found.outcome, found.key) == (Outcome.OK, new.key)
    assert one.door.peek(new.clear_key) == new.key
    assert one.door.authenticate(new.clear_key).key == new.key
    assert one.queries == 1

    assert other.door.authenticate(new.clear_key).key == new.key
    assert other.door.peek(new.clear_key) == new.key


def test_without_redis_the_database_answers_and_without_both_a_known_key_does(
    keys: VirtualKeys, process: Processes
) -> None:
    new = keys.create("n")
    without_redis, without_both = process(has_redis=False), process(has_database=False, has_redis=False)

    assert without_redis.door.authenticate(new.clear_key).key == new.key

    with pytest.raises(StoreUnavailable):
        without_both.door.authenticate(new.clear_key)


def test_a_malformed_key_is_refused_without_any_store(process: Processes) -> None:
    nowhere = process(has_database=False, has_redis=False)
    good = unknown_key()

    for bad in (
        "",
        "hr_",
        "x" * 300,
        good[:-1] + ("a" if good[-1] != "a" else "b"),
        good + "\n",
        "\udcff",
        "hr_\u00e4",
    ):
        assert nowhere.door.authenticate(bad).outcome is Outcome.MALFORMED
        assert nowhere.door.peek(bad) is None
        known = nowhere.door.known_refused(bad)
        assert known is not None
        assert known.outcome is Outcome.MALFORMED


def test_a_wrong_secret_under_a_known_public_id_is_unknown(keys: VirtualKeys, process: Processes) -> None:
    new = keys.create("n")

    assert process().door.authenticate(new_clear_key(new.key_id)).outcome is Outcome.UNKNOWN


def test_an_unknown_key_is_looked_up_once_and_then_refused_from_memory(process: Processes) -> None:
    one = process()
    key = unknown_key()
    assert one.door.known_refused(key) is None

    for _ in range(5):
        assert one.door.authenticate(key).outcome is Outcome.UNKNOWN

    known = one.door.known_refused(key)
    assert known is not None
    assert known.outcome is Outcome.UNKNOWN
    assert one.queries == 1


def test_only_who_has_the_right_secret_is_told_why_a_key_is_refused(keys: VirtualKeys, process: Processes) -> None:
    disabled, expiring, deleted = (keys.create(name) for name in ("disabled", "expiring", "deleted"))
    keys.disable(disabled.key_id)
    keys.update(expiring.key_id, expires_at=datetime.now(UTC) + timedelta(seconds=0.3))
    keys.delete(deleted.key_id)
    wait_until(lambda: keys.get(expiring.key_id).has_expired(datetime.now(UTC)), what="it expires")
    one = process()

    for _ in range(2):  # from the row, then from the copy
        answers = {new.name: one.door.authenticate(new.clear_key) for new in (disabled, expiring, deleted)}
        assert {name: found.outcome for name, found in answers.items()} == {
            "disabled": Outcome.DISABLED,
            "expiring": Outcome.EXPIRED,
            "deleted": Outcome.UNKNOWN,
        }
        assert all(found.key is None for found in answers.values())
        refused = answers["disabled"].refused
        assert refused is not None
        assert refused.key_id == disabled.key_id
    assert one.queries == 3
    for new in (disabled, expiring, deleted):
        assert one.door.peek(new.clear_key) is None
        assert one.door.authenticate(new_clear_key(new.key_id)).outcome is Outcome.UNKNOWN


def life_ms(process: Process, clear_key: str) -> int:
    left: int = process.link.client.pttl(process.entry(clear_key))
    return left


def test_a_copy_lives_for_half_an_hour_or_as_long_as_the_key_or_its_secret(
    keys: VirtualKeys, process: Processes
) -> None:
    one = process()
    lasting, brief, rotated = (keys.create(name) for name in ("lasting", "brief", "rotated"))
    keys.update(brief.key_id, expires_at=datetime.now(UTC) + timedelta(seconds=100))
    newest = keys.rotate(rotated.key_id, timedelta(seconds=200))
    disabled = keys.create("disabled")
    keys.disable(disabled.key_id)
    for new in (lasting, brief, rotated, newest, disabled):
        one.door.authenticate(new.clear_key)

    half_an_hour = KEY_LIFE_S * 1000
    assert 0.85 * half_an_hour < life_ms(one, lasting.clear_key) <= half_an_hour
    assert 0.85 * half_an_hour < life_ms(one, newest.clear_key) <= half_an_hour
    assert 80_000 < life_ms(one, brief.clear_key) <= 100_000
    assert 160_000 < life_ms(one, rotated.clear_key) <= 200_000
    assert 0 < life_ms(one, disabled.clear_key) <= 10_000
    assert one.link.client.type(one.entry(lasting.clear_key)) == b"string"


def test_a_key_that_expires_is_refused_from_memory_and_redis_at_that_moment(
    keys: VirtualKeys, process: Processes
) -> None:
    new = keys.create("n", expires_at=datetime.now(UTC) + timedelta(seconds=0.4))
    one, other = process(), process(has_database=False)
    assert one.door.authenticate(new.clear_key).outcome is Outcome.OK

    wait_until(lambda: one.door.peek(new.clear_key) is None, 2, every=0.005)
    assert new.key.expires_at is not None
    assert datetime.now(UTC) >= new.key.expires_at
    with pytest.raises(StoreUnavailable):  # its copy in Redis has ended with it
        other.door.authenticate(new.clear_key)
    assert one.door.authenticate(new.clear_key).outcome is Outcome.EXPIRED


def test_an_entry_that_somebody_forged_or_moved_in_redis_grants_nothing(keys: VirtualKeys, process: Processes) -> None:
    new, victim = keys.create("n"), keys.create("disabled")
    keys.disable(victim.key_id)
    one = process()
    one.door.authenticate(new.clear_key)
    genuine = one.link.client.get(one.entry(new.clear_key))
    assert isinstance(genuine, bytes)
    envelope = json.loads(genuine)
    value = {**envelope["value"], "allowed_types": [], "version": 99}
    forged = [
        genuine,
        json.dumps({"version": 99, "value": value}).encode(),
        json.dumps({**envelope, "version": 99, "value": value}).encode(),
        json.dumps({**envelope, "mac": "0" * 64}).encode(),
        json.dumps(value).encode(),
        b"",
        b"\x80\x04.",
    ]

    for clear_key, outcome in ((unknown_key(), Outcome.UNKNOWN), (victim.clear_key, Outcome.DISABLED)):
        for entry in forged:
            other = process()
            other.link.client.set(other.entry(clear_key), entry, ex=60)
            assert other.door.authenticate(clear_key).outcome is outcome, entry
            assert other.door.peek(clear_key) is None


def test_a_copy_holds_no_hash_no_secret_and_no_counter(keys: VirtualKeys, process: Processes) -> None:
    first = keys.create("n", group="g", allowed_types=["chat.*"], allowed_models=["m"], limits=Limits(1, 2, 3, 4))
    second = keys.rotate(first.key_id)
    one = process()
    found = one.door.authenticate(first.clear_key).key
    assert found is not None

    envelope = json.loads(one.link.client.get(one.entry(first.clear_key)))  # type: ignore[arg-type] # (sync client)

    assert envelope["value"].keys() == {
        "id", "name", "group", "allowed_types", "allowed_models", "rpm", "rpd", "tpm", "concurrency", "version",
        "created_at", "disabled_at", "expires_at", "secret_until",
    }  # fmt: skip
    text = json.dumps(envelope)
    for new in (first, second):
        assert new.clear_key[16:59] not in text
        assert one.peppers.entry_id(new.clear_key) not in text
    assert decode_key(encode_key(found)) == found


@pytest.mark.parametrize(
    "change",
    [{"created_at": None}, {"created_at": "2026-01-01"}, {"allowed_types": "abc"}, {"version": None}, {"rpm": "x"}],
    ids=str,
)
def test_a_copy_that_is_not_one_of_ours_is_not_read(keys: VirtualKeys, change: dict[str, object]) -> None:
    value = {**json.loads(encode_key(keys.create("n").key)), **change}

    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_key(json.dumps(value).encode())


def changed(key: VirtualKey, *hashes: str) -> KeysChanged:
    return KeysChanged((ChangedKey(key.key_id, key.version, hashes, key.limits),))


def test_a_change_drops_the_copy_and_what_is_newer_stays(keys: VirtualKeys, process: Processes) -> None:
    new = keys.create("n")
    one = process(has_redis=False)
    one.door.authenticate(new.clear_key)
    hash = one.peppers.entry_id(new.clear_key)

    one.door.apply(changed(new.key, hash))
    assert one.door.peek(new.clear_key) == new.key  # of this version already

    disabled = keys.disable(new.key_id)
    one.door.apply(changed(disabled, hash))
    assert one.door.peek(new.clear_key) is None
    assert one.door.authenticate(new.clear_key).outcome is Outcome.DISABLED

    enabled = keys.enable(new.key_id)
    one.door.apply(changed(enabled, hash))
    assert one.door.authenticate(new.clear_key).outcome is Outcome.OK


def test_a_key_that_is_made_known_is_not_refused_by_what_was_remembered(
    keys: VirtualKeys, process: Processes, shared: App
) -> None:
    one = process()
    new = keys.create("n")
    with shared.engine.begin() as connection:
        connection.execute(sa.text("UPDATE virtual_keys SET deleted_at = now() WHERE key_id = :id"), {"id": new.key_id})
    assert one.door.authenticate(new.clear_key).outcome is Outcome.UNKNOWN

    with shared.engine.begin() as connection:
        connection.execute(sa.text("UPDATE virtual_keys SET deleted_at = NULL WHERE key_id = :id"), {"id": new.key_id})
    one.door.apply(changed(keys.get(new.key_id), one.peppers.entry_id(new.clear_key)))

    assert one.door.authenticate(new.clear_key).outcome is Outcome.OK


def test_a_flood_of_unknown_keys_is_stopped_at_the_gate_and_keys_known_lately_pass(
    keys: VirtualKeys, process: Processes
) -> None:
    new = keys.create("n")
    one = process(has_redis=False, gate=Gate(per_s=0.001, burst=10))
    assert one.door.authenticate(new.clear_key).outcome is Outcome.OK

    outcomes: list[str] = []
    for _ in range(50):
        try:
            outcomes.append(one.door.authenticate(unknown_key()).outcome)
        except Unavailable as refused:
            outcomes.append(f"again in {refused.retry_after_s} s")

    assert outcomes == [Outcome.UNKNOWN] * 9 + ["again in 1 s"] * 41
    assert one.queries == 10
    one.caches.clear_memory("test")
    assert one.door.is_familiar(new.clear_key)
    assert one.door.authenticate(new.clear_key).outcome is Outcome.OK
    with pytest.raises(Unavailable):
        one.door.authenticate(keys.create("a newcomer").clear_key)


def test_the_gate_lets_so_many_through_in_any_second() -> None:
    now = 0.0
    gate = Gate(clock=lambda: now)
    passed: list[float] = []
    for _ in range(20_000):
        now += 0.00025
        try:
            gate.enter()
        except Unavailable:
            continue
        passed.append(now)

    assert max(sum(at <= other < at + 1 for other in passed) for at in passed) <= 200
    assert len(passed) == pytest.approx(BURST + 5 * LOOKUPS_PER_S, abs=2)


def test_a_secret_under_another_pepper_works_and_leaves_no_copy_that_would_not_hear_of_changes(
    app: App,
) -> None:
    old, new = "o" * 32, "n" * 32
    processes = Processes(app)
    try:
        before, during = processes(peppers={1: old, 2: new}), processes(peppers={2: new, 1: old})
        key = before.keys.create("n")

        # The first use moves the hash; the copy is named by the new one.
        assert during.door.authenticate(key.clear_key).outcome is Outcome.OK
        assert during.door.peek(key.clear_key) is not None
        assert during.link.client.exists(during.entry(key.clear_key)) == 1

        # A process with the old order still lets it in, and keeps nothing.
        for _ in range(2):
            assert before.door.authenticate(key.clear_key).outcome is Outcome.OK
        assert before.door.peek(key.clear_key) is None
        assert before.link.client.exists(before.entry(key.clear_key)) == 0

        # A pepper that is not in the settings is no pepper.
        assert processes(peppers={1: old}).door.authenticate(key.clear_key).outcome is Outcome.UNKNOWN
        assert processes(peppers={2: new}).door.authenticate(key.clear_key).outcome is Outcome.OK
    finally:
        processes.close()


def test_neither_store_nor_memory_nor_log_holds_a_clear_key(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    processes = Processes(app)
    one = processes()
    first = app.keys.create("n")
    second = app.keys.rotate(first.key_id)
    wrong = new_clear_key(first.key_id)
    for clear_key in (first.clear_key, second.clear_key, wrong, unknown_key()):
        one.door.authenticate(clear_key)
    app.access.limits_refresh.run()

    with app.engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").scalars()
        dumps = [f'SELECT t::text FROM "{table}" t' for table in tables]
        rows = [str(row) for dump in dumps for row in connection.exec_driver_sql(dump)]
    client = one.link.client
    copies = [name + b" " + (client.get(name) or b"") for name in client.scan_iter() if client.type(name) == b"string"]
    assert any(name.startswith(b"vkey:") for name in copies)
    places = {"database": "\n".join(rows), "redis": repr(copies), "log": caplog.text}
    for place, text in places.items():
        for shown in (first.clear_key, second.clear_key, wrong):
            assert shown not in text, place
            assert shown[16:59] not in text, place
    for hash in (one.peppers.entry_id(first.clear_key), one.peppers.entry_id(second.clear_key)):
        assert hash not in caplog.text
    memory = repr([vars(part) for part in (one.door, one.limits, one.copies)])
    assert first.clear_key[16:59] not in memory
    processes.close()


def test_secrets_are_random_enough(keys: VirtualKeys) -> None:
    made = {new_clear_key(new_key_id()) for _ in range(2000)}

    assert len({key[3:15] for key in made}) == len({key[16:59] for key in made}) == 2000
    assert len(secrets.token_urlsafe(32)) == 43
