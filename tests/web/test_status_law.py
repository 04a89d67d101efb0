"""Law 4: status never goes backwards, over two web processes that lose copies and wake-ups."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from core.app import App
from core.tasks.model import Stamp, Task
from core.tasks.status import status_of
from tests.web.histories import Read, Write, violations
from tests.web.moves import claim, finish, progress
from tests.web.serving import NOOP, Caller, WebProcess, running_web

SECONDS = 12
READERS = 8


@pytest.fixture
def processes(app: App, tmp_path: Path) -> Generator[list[WebProcess]]:
    with (
        running_web(app.settings, tmp_path / "first.log") as first,
        running_web(app.settings, tmp_path / "second.log") as second,
    ):
        yield [first, second]


class Writer:
    """Moves one task after another, losing announcements and copies, and sending old ones late."""

    def __init__(self, app: App, caller: Caller, seed: int) -> None:
        self.app = app
        self.caller = caller
        self.random = random.Random(seed)
        self.writes: list[Write] = []
        self.task_ids: list[str] = []
        self.old: list[tuple[Task, int | None]] = []

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            self.task_ids.append(self._accept())
            as_of_ms = self.app.copies.now_ms()
            claimed = claim(self.app, announced=self._is_told())
            self._wrote(claimed.task, as_of_ms)
            for percent in range(self.random.randrange(2, 8)):
                self._disturb()
                as_of_ms = self.app.copies.now_ms()
                self._wrote(progress(self.app, claimed, percent, announced=self._is_told()), as_of_ms)
            as_of_ms = self.app.copies.now_ms()
            self._wrote(finish(self.app, claimed, announced=self._is_told()), as_of_ms)

    def _accept(self) -> str:
        reply = self.caller.post("/v1/tasks", NOOP)
        stamp = Stamp.from_etag(reply.etag)
        assert stamp is not None
        self.writes.append(Write(reply.json["id"], stamp, time.monotonic()))
        return str(reply.json["id"])

    def _is_told(self) -> bool:
        return self.random.random() < 0.5

    def _wrote(self, task: Task, as_of_ms: int | None) -> None:
        self.writes.append(Write(task.public_id, task.stamp, time.monotonic()))
        self.old.append((task, as_of_ms))

    def _disturb(self) -> None:
        chance = self.random.random()
        if chance < 0.1:
            time.sleep(1.8)  # long enough for a copy that outlives its second to be seen
        else:
            time.sleep(self.random.uniform(0, 0.12))  # the pace of a worker, not a synchronisation
        if chance < 0.5:
            self._forget_copies()
        if 0.3 < chance < 0.8 and self.old:
            # A slow reader stores what it read long ago, or a slow writer tells what is old news.
            task, as_of_ms = self.random.choice(self.old[-3:])
            if self.random.random() < 0.7:
                self.app.copies.fill(status_of(task), as_of_ms)
            else:
                self.app.copies.announce([task])

    def _forget_copies(self) -> None:
        url = self.app.settings.redis_url
        assert url is not None
        with redis.Redis.from_url(url.get_secret_value()) as connection:
            connection.flushdb()


class Reader:
    """Polls whatever task is newest, with the last ETag or without, at one process or at both in turn."""

    def __init__(self, callers: list[Caller], writer: Writer, *, with_etag: bool, seed: int) -> None:
        self.callers = callers
        self.writer = writer
        self.with_etag = with_etag
        self.random = random.Random(seed)
        self.last: dict[str, Stamp] = {}
        self.reads: list[Read] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self.writer.task_ids:
                self._poll(self.random.choice(self.writer.task_ids[-2:]))

    def _poll(self, task_id: str) -> None:
        caller = self.random.choice(self.callers)
        sent = self.last.get(task_id) if self.with_etag else None
        headers = {} if sent is None else {"If_None_Match": sent.etag}
        began = time.monotonic()
        reply = caller.get(f"/v1/tasks/{task_id}", **headers)
        ended = time.monotonic()
        got = Stamp.from_etag(reply.etag)
        assert got is not None
        assert (reply.status == 304) == (got == sent)
        self.last[task_id] = max(got, self.last.get(task_id, got))
        self.reads.append(Read(caller.url, task_id, began, ended, sent, got))


def test_no_status_goes_backwards_over_two_processes(app: App, processes: list[WebProcess]) -> None:
    key = app.keys.create("test").clear_key
    callers = [Caller(process.url, key) for process in processes]
    writer = Writer(app, callers[0], seed=1)
    readers = [
        Reader(
            # Two thirds ask both processes in turn, the others stay with one.
            [caller.keep() for caller in (callers if number % 3 else callers[:1])],
            writer,
            with_etag=number % 2 == 0,
            seed=number,
        )
        for number in range(READERS)
    ]
    stop = threading.Event()
    with ThreadPoolExecutor(READERS) as pool:
        running = [pool.submit(reader.run, stop) for reader in readers]
        try:
            writer.run(time.monotonic() + SECONDS)
        finally:
            stop.set()
        for reading in running:
            reading.result(10)

    reads = [read for reader in readers for read in reader.reads]
    assert len(reads) > 1000
    assert len({read.got for read in reads}) > 20
    assert violations(writer.writes, reads, tolerance_s=0.05) == []


def history() -> tuple[list[Write], list[Read]]:
    """Three versions at 0, 1 and 2 s; two processes that answer as they should."""
    stamps = [Stamp(version, version * 1000) for version in (1, 2, 3)]
    writes = [Write("t", stamp, float(place)) for place, stamp in enumerate(stamps)]
    reads = [
        Read("a", "t", 0.1, 0.2, None, stamps[0]),
        Read("b", "t", 1.1, 1.2, None, stamps[0]),
        Read("a", "t", 1.3, 1.4, stamps[0], stamps[1]),
        Read("b", "t", 3.1, 3.2, None, stamps[2]),
    ]
    return writes, reads


def test_the_checker_accepts_a_right_history() -> None:
    assert violations(*history()) == []


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        (Read("a", "t", 1.5, 1.6, None, Stamp(1, 1000)), "answered before"),
        (Read("b", "t", 1.5, 1.6, Stamp(2, 2000), Stamp(1, 1000)), "older than its ETag"),
        (Read("b", "t", 3.3, 3.4, None, Stamp(2, 2000)), "more than a second behind"),
        (Read("b", "t", 3.3, 3.4, None, Stamp(4, 4000)), "never written"),
    ],
)
def test_the_checker_rejects_a_planted_step_back(planted: Read, complaint: str) -> None:
    writes, reads = history()

    assert any(complaint in violation for violation in violations(writes, [*reads, planted]))
