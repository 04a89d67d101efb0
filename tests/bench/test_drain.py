from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.drain import drain_rate
from bench.processes import Child, ChildFailed, memory_mb, running
from bench.profile import read

SLEEPER = [sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with running("sleeper", SLEEPER, env={}, logs=tmp_path) as it:
        yield it


def test_the_rate_is_that_of_the_tasks_after_the_first_sight(child: Child) -> None:
    started = time.perf_counter() + 0.2

    rate = drain_rate(lambda: min(500, max(0, int((time.perf_counter() - started) * 1_000))), 500, child)

    assert 900 < rate < 1_050


def test_a_worker_that_ends_gives_no_rate_but_its_last_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such queue')"]

    with running("broken", argv, env={}, logs=tmp_path) as it, pytest.raises(ChildFailed, match="no such queue"):
        drain_rate(lambda: 0, 10, it)


def test_a_drain_over_at_first_sight_gives_no_rate(child: Child) -> None:
    with pytest.raises(ChildFailed, match="take more"):
        drain_rate(lambda: 10, 10, child)


def test_a_child_is_gone_after_its_block(tmp_path: Path) -> None:
    with running("sleeper", SLEEPER, env={}, logs=tmp_path) as it:
        it.wait_until(lambda: "up" in it.tail(), what="up")
        assert memory_mb(it.pid)[it.pid] > 1

    assert it.process.poll() is not None


def test_samples_are_added_up_by_thread_and_frame() -> None:
    samples = read(["claims;outer;inner 3", "claims;outer 1", "finishes;outer;inner;inner 2"])

    assert samples.total == 6
    assert samples.threads == {"claims": 4, "finishes": 2}
    assert samples.own == {"inner": 5, "outer": 1}
    assert samples.inclusive == {"outer": 6, "inner": 5}
