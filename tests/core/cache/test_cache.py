"""One cache in one process: where answers come from, what is loaded, and what grants nothing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from core.connections import RedisLink
from core.errors import StoreUnavailable
from tests.support.caches import Pass, Process, Truth, pass_spec
from tests.support.waiting import wait_until

OFF = RedisLink("redis://127.0.0.1:1/0", is_off=True)
NOBODY = "redis://127.0.0.1:1/0"


def asked(process: Process) -> dict[str, int]:
    return process.cache.counters.take()


def test_an_entry_is_loaded_once_then_comes_from_memory_and_from_redis(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    one, other = (Process(link, pass_spec(prefix), truth.load) for _ in range(2))
    truth.change("a")

    assert one.cache.peek("a") is None
    assert [one.cache.get("a"), one.cache.get("a"), one.cache.peek("a")] == [Pass(1)] * 3
    assert [other.cache.get("a"), other.cache.get("a")] == [Pass(1)] * 2
    assert truth.loads == 1
    counted = asked(one)
    assert (counted["misses"], counted["memory"], counted["loads"]) == (1, 2, 1)
    assert asked(other) == {"redis": 1, "memory": 1}


def test_the_entry_in_redis_is_json_with_version_and_a_life_within_ten_percent(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    process = Process(link, pass_spec(prefix, ttl_s=1800), truth.load)
    lives = []
    for number in range(40):
        truth.change(f"{number}")
        process.cache.get(f"{number}")
        lives.append(int(link.client.pttl(f"{prefix}{number}")))

    text = link.client.get(f"{prefix}0")
    assert isinstance(text, bytes)
    assert orjson.loads(text) == {"version": 1, "value": {"version": 1, "enabled": True, "life_s": None}}
    assert 1_620_000 - 5_000 <= min(lives) < max(lives) <= 1_800_000
    assert max(lives) - min(lives) > 60_000  # jitter: what came together does not end together
    assert link.client.keys(f"{prefix}*:lock") == []


def test_memory_is_bounded_and_the_least_lately_used_goes_first(prefix: str, truth: Truth) -> None:
    process = Process(OFF, pass_spec(prefix, memory_entries=3), truth.load)
    for id in "abc":
        truth.change(id)
        process.cache.get(id)
    process.cache.peek("a")

    truth.change("d")
    process.cache.get("d")

    assert [process.cache.peek(id) is not None for id in "abcd"] == [True, False, True, True]
    assert len(process.cache) == 3


def test_what_is_proved_absent_is_remembered_in_a_space_of_its_own(link: RedisLink, prefix: str, truth: Truth) -> None:
    spec = pass_spec(prefix, memory_entries=10, negative_s=60, negative_entries=5)
    process = Process(link, spec, truth.load)
    truth.change("real")
    process.cache.get("real")

    for number in range(1000):
        assert process.cache.get(f"unknown{number}") is None

    assert process.cache.peek("real") == Pass(1)
    assert sum(process.cache.known_missing(f"unknown{number}") for number in range(1000)) == 5
    loads = truth.loads
    assert process.cache.get("unknown999") is None
    assert truth.loads == loads
    assert link.client.keys(f"{prefix}unknown*") == []


def test_an_absence_is_forgotten_by_a_drop_and_by_a_put(link: RedisLink, prefix: str, truth: Truth) -> None:
    process = Process(link, pass_spec(prefix, negative_s=60, negative_entries=5), truth.load)
    assert process.cache.get("a") is None
    assert process.cache.get("b") is None

    process.cache.drop(["a"], reason="key", newer_than=truth.change("a"))
    process.cache.put("b", Pass(truth.change("b")))

    assert process.cache.get("a") == Pass(1)
    assert process.cache.get("b") == Pass(1)


def test_without_a_space_for_them_absences_are_asked_each_time(link: RedisLink, prefix: str, truth: Truth) -> None:
    process = Process(link, pass_spec(prefix), truth.load)

    assert [process.cache.get("a") for _ in range(3)] == [None] * 3
    assert truth.loads == 3


def test_of_fifty_callers_one_loads_and_all_get_it(link: RedisLink, prefix: str, truth: Truth) -> None:
    truth.change("a")
    together = threading.Barrier(50)
    entered = threading.Event()

    def load(id: str) -> Pass | None:
        wait_until(lambda: asked_so_far() >= 40, 5, what="the others wait for this load")
        return truth.load(id)

    process = Process(link, pass_spec(prefix), load)
    waiting = iter(range(1_000_000))
    arrived = [0]

    def asked_so_far() -> int:
        return arrived[0]

    def ask(_: int) -> Pass | None:
        together.wait(10)
        arrived[0] = next(waiting) + 1
        entered.set()
        return process.cache.get("a")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))

    assert answers == [Pass(1)] * 50
    assert truth.loads == 1
    counted = asked(process)
    assert counted["misses"] + counted["coalesced"] + counted.get("memory", 0) == 50


def test_a_failed_load_is_every_callers_and_runs_once(link: RedisLink, prefix: str) -> None:
    loads = iter(range(1000))
    ran = [0]
    together = threading.Barrier(20)
    going = threading.Event()

    def load(_: str) -> Pass | None:
        ran[0] = next(loads) + 1
        going.wait(5)
        raise StoreUnavailable("the database is away")

    process = Process(link, pass_spec(prefix), load)
    inside = iter(range(1000))

    def ask(_: int) -> str:
        together.wait(10)
        if next(inside) == 19:
            going.set()
        try:
            process.cache.get("a")
        except StoreUnavailable as error:
            return str(error)
        return "answered"

    with ThreadPoolExecutor(20) as pool:
        answers = set(pool.map(ask, range(20)))

    counted = asked(process)
    assert answers == {"the database is away"}
    assert counted["failed_loads"] == ran[0] == counted["misses"]
    assert counted["misses"] + counted.get("coalesced", 0) == 20
    assert link.client.keys(f"{prefix}*") == []  # no lock is left behind


@pytest.mark.parametrize("url", [None, NOBODY])
def test_a_failing_loader_runs_once_a_call_with_redis_and_without(
    link: RedisLink, prefix: str, url: str | None
) -> None:
    loads = [0]

    def load(_: str) -> Pass | None:
        loads[0] += 1
        raise StoreUnavailable("the database is away")

    process = Process(link if url is None else RedisLink(url), pass_spec(prefix), load)

    for number in range(1, 4):
        with pytest.raises(StoreUnavailable):
            process.cache.get("a")
        assert loads[0] == number


def test_with_redis_away_everything_works_from_memory_and_truth(prefix: str, truth: Truth) -> None:
    process = Process(RedisLink(NOBODY), pass_spec(prefix), truth.load)
    truth.change("a")

    assert [process.cache.get("a") for _ in range(3)] == [Pass(1)] * 3
    assert truth.loads == 1
    process.cache.drop(["a"], reason="key", newer_than=truth.change("a"))
    assert process.cache.get("a") == Pass(2)
    process.cache.put("b", Pass(9))
    assert process.cache.peek("b") == Pass(9)


def test_of_two_processes_one_loads(link: RedisLink, prefix: str, truth: Truth) -> None:
    both = threading.Barrier(2)

    def load(id: str) -> Pass | None:
        time.sleep(0.002)  # the time a database takes
        return truth.load(id)

    spec = pass_spec(prefix)
    processes = [Process(link, spec, load) for _ in range(2)]
    for number in range(200):
        truth.change(f"{number}")

    def ask_all(process: Process) -> list[Pass | None]:
        found = []
        for number in range(200):
            both.wait(10)
            found.append(process.cache.get(f"{number}"))
        return found

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask_all, processes))

    assert answers == [[Pass(1)] * 200] * 2
    assert truth.loads <= 210  # 200, and those where a loaded machine stopped one for longer than the lock waits


def test_who_loses_the_lock_to_a_process_that_died_loads_after_a_bounded_time(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    process = Process(link, pass_spec(prefix), truth.load)
    truth.change("a")
    link.client.set(f"{prefix}a:lock", "somebody who died", px=60_000)

    began = time.monotonic()

    assert process.cache.get("a") == Pass(1)
    assert time.monotonic() - began < 2
    assert link.client.get(f"{prefix}a:lock") == b"somebody who died"


def test_another_type_under_an_entrys_name_is_junk(link: RedisLink, prefix: str, truth: Truth) -> None:
    process = Process(link, pass_spec(prefix), truth.load)
    truth.change("a")
    link.client.lpush(f"{prefix}a", "a list")

    assert process.cache.get("a") == Pass(1)
    assert link.client.type(f"{prefix}a") == b"string"
    link.client.delete(f"{prefix}b")
    link.client.lpush(f"{prefix}b", "a list")
    process.cache.drop_in_redis(["b"], newer_than=3)
    assert link.client.type(f"{prefix}b") == b"string"


def test_a_stale_entry_is_served_while_one_thread_loads_it_again(prefix: str, truth: Truth) -> None:
    going = threading.Event()
    loads = [0]

    def load(id: str) -> Pass | None:
        loads[0] += 1
        if loads[0] > 1:
            going.wait(5)
        return truth.load(id)

    process = Process(OFF, pass_spec(prefix, memory_s=0.05, stale_s=60), load)
    truth.change("a")
    process.cache.get("a")
    truth.change("a")
    wait_until(lambda: process.cache.peek("a") is None, 2, what="the entry is fresh no more")

    answers = [process.cache.get("a") for _ in range(20)]

    assert answers == [Pass(1)] * 20
    going.set()
    wait_until(lambda: process.cache.get("a") == Pass(2), 5, what="the new one")
    assert asked(process)["stale"] >= 20


def test_a_stale_entry_is_served_while_the_truth_is_away_and_ends_at_last(prefix: str, truth: Truth) -> None:
    def load(id: str) -> Pass | None:
        if truth.loads:
            raise StoreUnavailable("the database is away")
        return truth.load(id)

    process = Process(OFF, pass_spec(prefix, memory_s=0.02, stale_s=0.5), load)
    truth.change("a")
    process.cache.get("a")
    wait_until(lambda: process.cache.peek("a") is None, 2, what="the entry is fresh no more")

    assert process.cache.get("a") == Pass(1)

    def is_over() -> bool:
        try:
            process.cache.get("a")
        except StoreUnavailable:
            return True
        return False

    wait_until(is_over, 3, what="its end")


def test_a_drop_takes_stale_entries_too(prefix: str, truth: Truth) -> None:
    process = Process(OFF, pass_spec(prefix, memory_s=0.02, stale_s=60), truth.load)
    truth.change("a")
    process.cache.get("a")
    wait_until(lambda: process.cache.peek("a") is None, 2, what="the entry is fresh no more")

    process.cache.drop(["a"], reason="key", newer_than=truth.change("a"))

    assert process.cache.get("a") == Pass(2)


def test_clearing_forgets_everything_here(link: RedisLink, prefix: str, truth: Truth) -> None:
    process = Process(link, pass_spec(prefix, negative_s=60, negative_entries=10), truth.load)
    for id in "abc":
        truth.change(id)
        process.cache.get(id)
    process.cache.get("unknown")

    process.caches.clear_memory("gap")

    assert len(process.cache) == 0
    assert not process.cache.known_missing("unknown")
    assert asked(process)["invalidations:gap"] == 3
    assert process.cache.get("a") == Pass(1)


def test_a_change_told_seven_times_counts_as_one_invalidation(link: RedisLink, prefix: str, truth: Truth) -> None:
    process = Process(link, pass_spec(prefix), truth.load)
    version = truth.change("a")

    for _ in range(7):
        process.cache.drop(["a"], reason="key", newer_than=version)

    assert asked(process)["invalidations:key"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl_s": 0},
        {"memory_s": -1},
        {"memory_entries": 0},
        {"negative_s": 5},
        {"negative_entries": 5},
        {"grants_rights": True, "stale_s": 5},
    ],
)
def test_a_declaration_that_cannot_work_is_refused(prefix: str, fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cache passes"):
        pass_spec(prefix, **fields)
