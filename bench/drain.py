"""
How fast a worker empties a queue: one process, eight threads, the tasks enqueued before it starts.

An outside reader counts: committed rows in PostgreSQL, or a Redis counter for raw Dramatiq, which writes no rows.
The rate is taken from the first sight of a finished task to the last one, so that starting a worker is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.processes import Child, ChildFailed

THREADS = 8
STALL_S = 60.0


def drain_rate(done: Callable[[], int], total: int, worker: Child) -> float:
    """
    Tasks per second, watched from outside until `total` are done.

    Looks often at the start and near the end and seldom in between: counting costs the database time.

    Raises:
        ChildFailed: the worker ended, or nothing more was done for a minute.
    """
    first_at, first = _first_sight(done, worker)
    seen, seen_at = first, first_at
    while seen < total:
        rate = (seen - first) / (seen_at - first_at) if seen > first else 0.0
        left_s = (total - seen) / rate if rate else 0.05
        time.sleep(min(max(left_s * 0.3, 0.005), 0.25))
        count = done()
        now = time.perf_counter()
        if count > seen:
            seen, seen_at = count, now
        elif now - seen_at > STALL_S:
            raise ChildFailed(f"stuck at {seen} of {total} tasks\n{worker.tail()}")
        worker.check()
    if seen == first:
        raise ChildFailed(f"all {total} tasks were done at first sight; take more of them")
    return (seen - first) / (seen_at - first_at)


def _first_sight(done: Callable[[], int], worker: Child) -> tuple[float, int]:
    give_up = time.monotonic() + STALL_S
    while True:
        count = done()
        if count:
            return time.perf_counter(), count
        worker.check()
        if time.monotonic() > give_up:
            raise ChildFailed(f"no task was done within {STALL_S:g} s\n{worker.tail()}")
        time.sleep(0.02)
