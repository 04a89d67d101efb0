"""The bans in memory: bounded, small, and never older than what was heard."""

from __future__ import annotations

import gc
import tracemalloc

from core.access.addresses.ban_memory import MOST, BanMemory, DatabaseClock


def test_when_there_are_too_many_those_that_end_first_are_forgotten() -> None:
    clock = DatabaseClock()
    memory, now = BanMemory(clock, most=1000), clock.now_ms()
    for number in range(1, 3001):
        memory.put(number, end_ms=now + 1_000_000 + number, version=1)

    assert len(memory) <= 1000
    assert memory.forgotten >= 2000
    assert all(memory.end_of(number) for number in range(2100, 3001))
    assert not memory.end_of(1)


def test_an_operators_long_ban_outlives_a_flood() -> None:
    clock = DatabaseClock()
    memory, now = BanMemory(clock, most=1000), clock.now_ms()
    memory.put(7, end_ms=now + 10**10, version=1)
    for number in range(100, 10_000):
        memory.put(number, end_ms=now + 1_800_000, version=1)

    assert memory.end_of(7)


def test_what_is_over_makes_room_by_itself() -> None:
    clock = DatabaseClock()
    memory, now = BanMemory(clock), clock.now_ms()
    for number in range(20_000):
        memory.put(number, end_ms=now - 120_000, version=1)

    assert len(memory) < 2000


def test_a_hundred_thousand_bans_are_small() -> None:
    clock = DatabaseClock()
    now = clock.now_ms()
    gc.collect()
    tracemalloc.start()
    memory = BanMemory(clock)
    for number in range(MOST):
        memory.put((64 << 64) | number << 8, end_ms=now + 1_800_000 + number, version=100_000_000 + number)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(memory) == MOST
    assert size / MOST < 160  # bytes a ban; measured 124


def test_what_is_put_while_all_are_read_is_not_lost() -> None:
    clock = DatabaseClock()
    memory, now = BanMemory(clock), clock.now_ms()
    memory.put(1, end_ms=now + 1000, version=1)
    memory.put(2, end_ms=now + 1000, version=1)
    memory.begin()
    memory.put(3, end_ms=now + 3000, version=1)
    memory.put(1, end_ms=now + 9000, version=3)

    memory.replace([(1, 2, now + 2000), (4, 1, now + 4000)])

    assert [memory.end_of(number) - now for number in (1, 3, 4)] == [9000, 3000, 4000]
    assert memory.end_of(2) == 0


def test_an_older_version_changes_nothing() -> None:
    clock = DatabaseClock()
    memory, now = BanMemory(clock), clock.now_ms()
    memory.put(1, end_ms=now, version=5)

    memory.put(1, end_ms=now + 1000, version=4)
    memory.put(1, end_ms=now + 1000, version=5)

    assert memory.end_of(1) == now
    memory.put_now(1, end_ms=now + 500)
    assert memory.end_of(1) == now + 500
    memory.put(1, end_ms=now + 2000, version=6)
    assert memory.end_of(1) == now + 2000
