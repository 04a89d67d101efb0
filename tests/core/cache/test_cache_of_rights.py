"""A cache that grants rights: what is forged, damaged, old or unheard of grants nothing."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from core.cache.caches import Caches
from core.cache.spec import CacheSpec
from core.connections import RedisLink
from tests.support.caches import Pass, Process, StaticTrust, Truth, fresh_prefix, pass_spec

OFF = RedisLink("redis://127.0.0.1:1/0", is_off=True)
NOBODY = "redis://127.0.0.1:1/0"


def asked(process: Process) -> dict[str, int]:
    return process.cache.counters.take()


def damages() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "nothing": lambda text: b"",
        "junk": lambda text: b"\xff\x00 junk",
        "another document": lambda text: b"[1, 2]",
        "a number": lambda text: b"7",
        "no value": lambda text: b'{"version":1}',
        "cut off": lambda text: text[:-5],
        "another value": lambda text: text.replace(b'"enabled":false', b'"enabled":true'),
        "a higher version": lambda text: text.replace(b'{"version":1,', b'{"version":9,', 1),
        "another epoch": lambda text: text.replace(b'"epoch":"e1"', b'"epoch":"e2"'),
        "no mac": lambda text: b'{"version":1,"value":' + text.partition(b'"value":')[2],
        "an empty mac": lambda text: text.replace(text[text.index(b'"mac":"') + 7 :][:64], b""),
        "a mac of another secret": lambda text: text.replace(text[text.index(b'"mac":"') + 7 :][:64], b"0" * 64),
        "negative version": lambda text: text.replace(b'{"version":1,', b'{"version":-1,', 1),
        "a deep one": lambda text: b'{"version":1,"epoch":"e1","mac":"","value":' + b"[" * 5000 + b"}",
    }


@pytest.mark.parametrize("how", damages())
def test_a_forged_or_damaged_entry_grants_nothing_and_is_deleted_counted_and_loaded(
    link: RedisLink, prefix: str, truth: Truth, how: str
) -> None:
    spec = pass_spec(prefix, grants_rights=True)
    truth.change("a", enabled=False)
    Process(link, spec, truth.load).cache.get("a")
    good = link.client.get(f"{prefix}a")
    assert isinstance(good, bytes)
    forged = damages()[how](good)
    assert forged != good
    link.client.set(f"{prefix}a", forged)

    process = Process(link, spec, truth.load)

    assert process.cache.get("a") == Pass(1, enabled=False)
    counted = asked(process)
    assert (counted["corrupt"], counted["loads"], counted["misses"]) == (1, 1, 1)
    assert "redis" not in counted
    mended = link.client.get(f"{prefix}a")
    assert isinstance(mended, bytes)
    assert orjson.loads(mended)["value"] == {"version": 1, "enabled": False, "life_s": None}


def test_an_entry_of_another_id_or_cache_grants_nothing(link: RedisLink, prefix: str, truth: Truth) -> None:
    spec = pass_spec(prefix, grants_rights=True)
    process = Process(link, spec, truth.load)
    truth.change("rich")
    truth.change("poor", enabled=False)
    process.cache.get("rich")
    copied = link.client.get(f"{prefix}rich")
    assert isinstance(copied, bytes)
    elsewhere = fresh_prefix()
    link.client.set(f"{prefix}poor", copied)
    link.client.set(f"{elsewhere}rich", copied)

    assert process.cache.get("poor") == Pass(1, enabled=False)
    other = Process(link, pass_spec(elsewhere, name="others", grants_rights=True), lambda _: None)
    assert other.cache.get("rich") is None


def test_an_entry_of_an_old_epoch_is_a_miss(link: RedisLink, prefix: str, truth: Truth) -> None:
    spec = pass_spec(prefix, grants_rights=True)
    truth.change("a")
    Process(link, spec, truth.load).cache.get("a")
    process = Process(link, spec, truth.load, trust=StaticTrust("e2"))

    assert process.cache.get("a") == Pass(1)
    counted = asked(process)
    assert (counted["old_epoch"], counted["loads"]) == (1, 1)
    text = link.client.get(f"{prefix}a")
    assert isinstance(text, bytes)
    assert orjson.loads(text)["epoch"] == "e2"


def test_without_an_epoch_redis_is_neither_believed_nor_written(link: RedisLink, prefix: str, truth: Truth) -> None:
    spec = pass_spec(prefix, grants_rights=True)
    truth.change("a")
    truth.change("b")
    Process(link, spec, truth.load).cache.get("a")
    process = Process(link, spec, truth.load, trust=StaticTrust(None))

    assert [process.cache.get("a"), process.cache.get("b")] == [Pass(1)] * 2
    assert asked(process)["loads"] == 2
    assert link.client.exists(f"{prefix}b", f"{prefix}b:lock") == 0


def test_an_epoch_that_ends_during_a_load_leaves_nothing_behind(link: RedisLink, prefix: str, truth: Truth) -> None:
    trust = StaticTrust("e1")

    def load(id: str) -> Pass | None:
        found = truth.load(id)
        trust.now_epoch = "e2"
        return found

    process = Process(link, pass_spec(prefix, grants_rights=True), load, trust=trust)
    truth.change("a")

    assert process.cache.get("a") == Pass(1)
    assert link.client.exists(f"{prefix}a", f"{prefix}a:lock") == 0
    assert process.cache.peek("a") is None


def test_memory_that_grants_rights_answers_only_while_changes_are_heard(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    spec = pass_spec(prefix, grants_rights=True, negative_s=60, negative_entries=10)
    process = Process(link, spec, truth.load)
    truth.change("a")
    process.cache.get("a")
    process.cache.get("unknown")

    process.trust.current = False
    assert process.cache.peek("a") is None
    assert not process.cache.known_missing("unknown")
    assert process.cache.get("a") == Pass(1)

    process.trust.current = True
    assert process.cache.peek("a") == Pass(1)
    assert process.cache.known_missing("unknown")


def test_entries_of_a_pepper_under_rotation_are_ours_and_of_an_unknown_one_are_not(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    spec = pass_spec(prefix, grants_rights=True)
    truth.change("a")
    Process(link, spec, truth.load, pepper="old").cache.get("a")

    rotated = Process(link, spec, truth.load, pepper="2:new, 1:old")
    stranger = Process(link, spec, truth.load, pepper="3:stranger")

    assert rotated.cache.get("a") == Pass(1)
    assert asked(rotated) == {"redis": 1}
    stranger.cache.get("a")
    assert asked(stranger)["corrupt"] == 1


def test_a_cache_that_grants_rights_needs_trust(prefix: str, truth: Truth) -> None:
    spec: CacheSpec[Pass] = pass_spec(prefix, grants_rights=True)

    with pytest.raises(ValueError, match="needs a Trust"):
        Caches(OFF, pepper="pepper").add(spec, truth.load)
