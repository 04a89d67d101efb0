"""The threads of a process, shared out among its queues."""

from __future__ import annotations

import threading

from core.tasks.queues import Queue
from tests.support.waiting import wait_until
from workers.slots import Slots

NOW = 0.0


def slots(threads: int, *queues: Queue) -> Slots:
    made = Slots(threads)
    made.serve(queues)
    return made


def test_there_are_as_many_slots_as_threads() -> None:
    shared = slots(2, Queue("a", 0, None), Queue("b", 0, None))

    assert [shared.acquire("a", timeout_s=NOW), shared.acquire("b", timeout_s=NOW)] == [True, True]
    assert not shared.acquire("a", timeout_s=NOW)
    assert not shared.has_room("b")

    shared.release("a")
    assert shared.acquire("b", timeout_s=NOW)


def test_a_reserved_slot_is_kept_for_its_queue() -> None:
    shared = slots(3, Queue("a", 0, None), Queue("b", 1, None))

    taken = [shared.acquire("a", timeout_s=NOW) for _ in range(3)]

    assert taken == [True, True, False]
    assert shared.acquire("b", timeout_s=NOW)
    assert not shared.acquire("b", timeout_s=NOW)


def test_a_queue_stays_below_its_maximum() -> None:
    shared = slots(3, Queue("a", 0, 1), Queue("b", 0, None))

    assert shared.acquire("a", timeout_s=NOW)
    assert not shared.acquire("a", timeout_s=NOW)
    assert shared.acquire("b", timeout_s=NOW)


def test_an_unnamed_queue_gets_none_until_it_is_named() -> None:
    shared = slots(1)
    assert not shared.acquire("a", timeout_s=NOW)

    shared.serve([Queue("a", 0, None)])

    assert shared.acquire("a", timeout_s=NOW)


def test_a_slot_is_handed_over_only_to_another_queue_that_waits() -> None:
    shared = slots(1, Queue("a", 0, None), Queue("b", 0, None))
    shared.acquire("a", timeout_s=NOW)
    assert not shared.hand_over("a")

    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(shared.acquire("b", timeout_s=5.0)))
    waiter.start()
    wait_until(lambda: shared.hand_over("a"), 5, what="b waits")
    waiter.join(5)

    assert got == [True]
    assert not shared.acquire("a", timeout_s=NOW)
    shared.release("b")
    assert shared.acquire("a", timeout_s=NOW)


def test_slots_are_handed_round_among_all_queues_that_wait() -> None:
    names = ["a", "b", "c"]
    shared = slots(1, *(Queue(name, 0, None) for name in names))
    shared.acquire("a", timeout_s=NOW)
    order: list[str] = []
    busy = threading.Event()

    def work(name: str) -> None:
        while not busy.is_set():
            if shared.acquire(name, timeout_s=1.0):
                order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    holders = ["a"]
    while len(order) < 12:
        wait_until(lambda: shared.hand_over(holders[-1]), 5, what="another waits")
        wait_until(lambda: len(order) == len(holders), 5, what="it got the slot")
        holders.append(order[-1])
    busy.set()
    shared.close()
    for thread in threads:
        thread.join(5)

    assert min(order.count(name) for name in names) >= 3


def test_closing_wakes_who_waits_with_nothing() -> None:
    shared = slots(1, Queue("a", 0, None))
    shared.acquire("a", timeout_s=NOW)
    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(shared.acquire("a", timeout_s=30.0)))
    waiter.start()

    shared.close()
    waiter.join(5)

    assert got == [False]
