"""One run as others see it: interrupting it must never hit what runs in its thread afterwards."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.ids import KeyId, PublicId, new_public_id, new_task_id, new_worker_id
from core.tasks.model import Claimed, Task, TaskState
from workers.context import HandlerContext, HandlerStopped
from workers.execution import call_sync
from workers.handler_lookup import Handler
from workers.run import Interruption, Run


def run_of(*, ends_in_s: float = 60.0, reported: list[str] | None = None) -> Run:
    now = datetime.now(UTC)
    task = Task(
        id=new_task_id(),
        public_id=PublicId(new_public_id()),
        owner_id=KeyId("owner"),
        type="probe",
        queue="default",
        priority=5,
        state=TaskState.PROCESSING,
        version=2,
        changed_at=now,
        attempt=1,
        max_attempts=3,
        created_at=now,
        run_at=now,
    )
    deadline_at = now + timedelta(seconds=ends_in_s)
    claimed = Claimed(task, 1, new_worker_id(), "{}", deadline_at, failures=0, rate_limits=0, crashes=0)
    noted = reported if reported is not None else []

    def no_provider() -> Any:
        raise AssertionError("no provider here")

    return Run(claimed, time.monotonic(), report=lambda _, text: noted.append(text), get_provider=no_provider)


@pytest.fixture
def quick_switches() -> Generator[None]:
    """Threads take turns as often as they can, so that they meet at every line."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("quick_switches")
def test_an_interruption_at_the_very_end_of_a_handler_never_reaches_what_comes_after() -> None:
    ours = random.Random(7)
    interrupted = escaped = 0

    def handle(input: object, ctx: HandlerContext) -> None:
        for _ in range(rounds):
            pass

    handler = Handler("probe", lambda _: None, handle, is_async=False)  # type: ignore[arg-type, return-value]  # no model
    for _ in range(3000):
        run = run_of()
        go = threading.Barrier(2)
        rounds = ours.randrange(4000)

        def interrupt(run: Run = run, go: threading.Barrier = go) -> None:
            go.wait()
            run.interrupt(Interruption.DEADLINE)

        other = threading.Thread(target=interrupt)
        other.start()
        go.wait()
        try:
            call_sync(handler, None, run)  # type: ignore[arg-type]  # no model
        except HandlerStopped:
            interrupted += 1
        try:
            other.join()
            for _ in range(200):
                pass
        except HandlerStopped:
            escaped += 1

    assert escaped == 0
    assert 0 < interrupted < 3000  # both orders were met


def test_the_first_reason_counts_and_the_deadline_still_interrupts() -> None:
    run = run_of()

    run.interrupt(Interruption.CANCELLED)
    run.interrupt(Interruption.STOPPING)

    assert run.interruption is Interruption.CANCELLED
    with pytest.raises(HandlerStopped):
        run.check()


def test_check_sees_the_deadline_by_itself() -> None:
    run = run_of(ends_in_s=-0.001)

    with pytest.raises(HandlerStopped):
        run.check()

    assert run.interruption is Interruption.DEADLINE
    assert run.remaining() == timedelta()


def test_a_finish_is_taken_once() -> None:
    run = run_of()

    assert [run.take_finish(), run.take_finish()] == [True, False]


@pytest.mark.parametrize(
    ("percent", "message", "shown"),
    [
        (40, "encoding", '{"percent":40.0,"message":"encoding"}'),
        (-5, None, '{"percent":0.0,"message":null}'),
        (250.5, "x" * 600, '{"percent":100.0,"message":"' + "x" * 500 + '"}'),
        (float("nan"), "half \ud83d", '{"percent":null,"message":"half ?"}'),
        (None, None, '{"percent":null,"message":null}'),
    ],
)
def test_progress_is_clamped_and_storable(percent: float | None, message: str | None, shown: str) -> None:
    reported: list[str] = []
    run = run_of(reported=reported)

    run.progress(percent, message)

    assert reported == [shown]
    assert run.progress_json == shown
