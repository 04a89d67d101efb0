"""
Races, forced: a slow reader holds an old value while the row changes. Who asks after the change never gets the old one.

Every stage at which a reader can be slow is a place where code of the declaration runs, so tests can stop it there:
`load` (the row was read), `encode` (on its way to Redis), `decode` (read from Redis, on its way to memory).
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import pytest

from core.connections import RedisLink
from core.embedded import Servers
from tests.support.caches import Pass, Process, Relay, Truth, announce, decode, encode, fresh_prefix, pass_spec
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

ROUNDS = 1000
WAIT_S = 20


class Gate:
    """Stops whoever passes it, once, when it is set."""

    def __init__(self) -> None:
        self._armed = False
        self.reached = threading.Event()
        self._open = threading.Event()

    def arm(self) -> None:
        self.reached.clear()
        self._open.clear()
        self._armed = True

    def pass_by(self) -> None:
        if self._armed:
            self._armed = False
            self.reached.set()
            assert self._open.wait(WAIT_S)

    def open(self) -> None:
        self._open.set()


class Reader:
    """A thread that asks when it is told to; one for all rounds."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], Pass | None] | None] = SimpleQueue()
        self._answers: SimpleQueue[Pass | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self, question: Callable[[], Pass | None]) -> None:
        self._asked.put(question)

    def answer(self) -> Pass | None:
        return self._answers.get(timeout=WAIT_S)

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join(WAIT_S)

    def _run(self) -> None:
        while (question := self._asked.get()) is not None:
            self._answers.put(question())


@pytest.fixture
def reader() -> Generator[Reader]:
    opened = Reader()
    yield opened
    opened.close()


def gated(place: str, truth: Truth, prefix: str, gate: Gate, **fields: Any) -> tuple[Any, Callable[[str], Pass | None]]:
    def load(id: str) -> Pass | None:
        found = truth.load(id)
        if place == "load":
            gate.pass_by()
        return found

    def slow_encode(value: Pass) -> bytes:
        if place == "encode":
            gate.pass_by()
        return encode(value)

    def slow_decode(text: bytes) -> Pass:
        if place == "decode":
            gate.pass_by()
        return decode(text)

    return pass_spec(prefix, encode=slow_encode, decode=slow_decode, **fields), load


DISABLED, DROPPED = "a key is disabled", "an operator drops"


@pytest.mark.parametrize(
    ("place", "how"), [(place, how) for place in ("load", "encode", "decode") for how in (DISABLED, DROPPED)]
)
def test_what_a_slow_reader_brings_after_a_drop_is_nobodys_truth(
    link: RedisLink, truth: Truth, reader: Reader, place: str, how: str
) -> None:
    prefix = fresh_prefix()
    gate, relay = Gate(), Relay()
    spec, load = gated(place, truth, prefix, gate, grants_rights=True)
    process = Process(link, spec, load, relay=relay)
    other = Process(link, pass_spec(prefix, grants_rights=True), truth.load, relay=relay)

    for number in range(ROUNDS // 2):
        id = f"{number % 7}"
        truth.change(id, enabled=True)
        announce([process, other], id, truth.rows[id].version)
        if place == "decode":
            other.cache.get(id)  # there is a copy to be read
        gate.arm()
        reader.ask(lambda id=id: process.cache.get(id))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        assert gate.reached.wait(WAIT_S)

        version = truth.change(id, enabled=False)
        if how == DISABLED:
            announce([process, other], id, version)
        else:
            assert process.caches.drop_everywhere("passes", [id])

        early = other.cache.get(id) if number % 2 else None
        gate.open()
        late = reader.answer()
        assert late is not None  # asked before the change: either is an answer
        assert early in (None, Pass(version, enabled=False))
        assert process.cache.peek(id) in (None, Pass(version, enabled=False)), (number, place, how)
        assert process.cache.get(id) == Pass(version, enabled=False), (number, place, how)
        assert other.cache.get(id) == Pass(version, enabled=False), (number, place, how)


@pytest.mark.parametrize(
    ("place", "how"), [(place, how) for place in ("load", "encode") for how in (DISABLED, DROPPED)]
)
def test_a_process_that_has_not_heard_yet_does_not_bring_the_old_value_back_into_redis(
    link: RedisLink, truth: Truth, reader: Reader, place: str, how: str
) -> None:
    prefix = fresh_prefix()
    gate = Gate()
    spec, load = gated(place, truth, prefix, gate, grants_rights=True)
    deaf = Process(link, spec, load)
    other = Process(link, pass_spec(prefix, grants_rights=True), truth.load)

    for number in range(ROUNDS // 2):
        id = f"{number}"
        truth.change(id)
        gate.arm()
        reader.ask(lambda id=id: deaf.cache.get(id))  # type: ignore[misc]  # as above
        assert gate.reached.wait(WAIT_S)

        version = truth.change(id, enabled=False)
        other.cache.drop_in_redis([id], newer_than=version if how == DISABLED else None)
        gate.open()
        reader.answer()

        # Refused by Redis, it is not kept in the memory of who brought it either.
        assert deaf.cache.peek(id) is None, (number, place, how)
        assert other.cache.get(id) == Pass(version, enabled=False), (number, place, how)
        assert deaf.cache.get(id) == Pass(version, enabled=False)


def test_who_asks_after_a_drop_does_not_share_a_load_from_before_it(
    link: RedisLink, prefix: str, truth: Truth, reader: Reader
) -> None:
    gate = Gate()
    spec, load = gated("load", truth, prefix, gate)
    process = Process(link, spec, load)

    for number in range(ROUNDS // 10):
        id = f"{number}"
        truth.change(id)
        gate.arm()
        reader.ask(lambda id=id: process.cache.get(id))  # type: ignore[misc]  # as above
        assert gate.reached.wait(WAIT_S)
        version = truth.change(id, enabled=False)
        announce([process], id, version)

        assert process.cache.get(id) == Pass(version, enabled=False)
        gate.open()
        reader.answer()
        assert process.cache.get(id) == Pass(version, enabled=False)


def test_an_absence_found_before_a_key_was_made_is_not_remembered(
    link: RedisLink, prefix: str, truth: Truth, reader: Reader
) -> None:
    gate = Gate()
    spec, load = gated("load", truth, prefix, gate, negative_s=60, negative_entries=10_000)
    process = Process(link, spec, load)

    for number in range(ROUNDS):
        id = f"{number}"
        gate.arm()
        reader.ask(lambda id=id: process.cache.get(id))  # type: ignore[misc]  # as above
        assert gate.reached.wait(WAIT_S)
        version = truth.change(id)
        if number % 2:
            announce([process], id, version)
        else:
            process.cache.put(id, truth.rows[id])
        gate.open()

        assert reader.answer() is None
        assert not process.cache.known_missing(id)
        assert process.cache.get(id) == Pass(version)


@pytest.mark.parametrize("redis_is_there", [True, False])
def test_under_free_use_no_answer_is_older_than_a_change_announced_before_the_question(
    link: RedisLink, prefix: str, truth: Truth, redis_is_there: bool
) -> None:
    relay = Relay()
    used = link if redis_is_there else RedisLink("redis://127.0.0.1:1/0", is_off=True)
    spec = pass_spec(prefix, memory_entries=3, negative_s=60, negative_entries=2)
    processes = [Process(used, spec, truth.load, relay=relay) for _ in range(2)]
    ids = [f"{number}" for number in range(5)]
    announced = {id: truth.change(id) for id in ids}
    stopping = threading.Event()
    faults: list[str] = []
    asked = [0] * 6

    def ask(place: int) -> None:
        cache = processes[place % 2].cache
        while not stopping.is_set():
            for id in ids:
                least = announced[id]
                found = cache.peek(id) if place % 3 == 0 else cache.get(id)
                asked[place] += 1
                if (found is None and place % 3) or (found is not None and found.version < least):
                    faults.append(f"{id}: {found} after {least}")

    readers = [threading.Thread(target=ask, args=(place,), daemon=True) for place in range(6)]
    for thread in readers:
        thread.start()
    try:
        for number in range(ROUNDS):
            id = ids[number % len(ids)]
            version = truth.change(id, enabled=bool(number % 2))
            if number % 3 == 0 and redis_is_there:
                assert processes[0].caches.drop_everywhere("passes", [id])
            else:
                if redis_is_there:
                    processes[0].cache.drop_in_redis([id], newer_than=version)
                for process in processes:
                    process.cache.drop([id], reason="key", newer_than=version)
            announced[id] = version
    finally:
        stopping.set()
        for thread in readers:
            thread.join(WAIT_S)
    assert faults == []
    assert min(asked) > 10


def test_a_second_real_process_brings_nothing_old_back(
    servers: Servers, link: RedisLink, prefix: str, truth: Truth
) -> None:
    cache = Process(link, pass_spec(prefix), truth.load).cache
    words = [sys.executable, "-m", "tests.support.cache_process", servers.redis_url, prefix]
    other = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:

        def say(line: str) -> None:
            assert other.stdin is not None
            other.stdin.write(line + "\n")
            other.stdin.flush()

        def hear() -> str:
            assert other.stdout is not None
            return other.stdout.readline().strip()

        for number in range(300):
            id = f"{number}"
            old = truth.change(id)
            say(f"get {id} {old}")
            assert hear() == "read"  # its loader has the old row in its hands

            version = truth.change(id, enabled=False)
            cache.drop_in_redis([id], newer_than=version if number % 2 else None)
            cache.drop([id], reason="key", newer_than=version)
            say("go")
            assert hear() == f"got {old}"

            assert cache.get(id) == Pass(version, enabled=False)
            say(f"get {id} {version}")
            assert hear() == f"got {version}"  # from Redis: the load of this process
    finally:
        with suppress(OSError):
            if other.stdin is not None:
                other.stdin.close()
        wait_until(lambda: other.poll() is not None, 10, what="the other process ended")
