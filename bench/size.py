"""How much of everything a run does: `FULL` is what the targets are stated for, `QUICK` shows that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """
    Args:
        rounds: of each measurement; figures are medians.
        drain_tasks: enqueued before a worker starts.
        celery_tasks: the same for Celery, which takes a minute for 5,000.
        bulk_tasks: handed to one `enqueue_many`.
        load_s: seconds of HTTP load in a round.
        reads: status reads in Python in a round.
        starts: tasks sent singly to an idle worker.
        deep_rows, future_rows: rows in the tables of the claim scenario.
        claims: timed claims on each of those tables.
    """

    rounds: int
    drain_tasks: int
    celery_tasks: int
    bulk_tasks: int
    load_s: int
    reads: int
    starts: int
    deep_rows: int
    future_rows: int
    claims: int


FULL = Size(
    rounds=3,
    drain_tasks=5_000,
    celery_tasks=5_000,
    bulk_tasks=20_000,
    load_s=8,
    reads=5_000,
    starts=300,
    deep_rows=1_000_000,
    future_rows=200_000,
    claims=600,
)
QUICK = Size(
    rounds=1,
    drain_tasks=2_000,
    celery_tasks=300,
    bulk_tasks=5_000,
    load_s=2,
    reads=1_000,
    starts=30,
    deep_rows=50_000,
    future_rows=20_000,
    claims=100,
)
