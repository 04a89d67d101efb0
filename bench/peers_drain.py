"""The peers' part of the drain: how each is enqueued, started and counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from bench.drain import THREADS, drain_rate
from bench.peer_environment import PEERS
from bench.processes import output_of, running


@dataclass(frozen=True, slots=True)
class Peer:
    """
    A queue we are compared with.

    Args:
        script: enqueues when run with a number; prints the rate of that.
        worker: its command line, the program without its folder.
        rows: counts finished tasks in PostgreSQL; None: it writes none and counts in Redis.
    """

    name: str
    script: str
    worker: tuple[str, ...]
    rows: str | None


PEER_LIST = (
    Peer("dramatiq", "raw_dramatiq.py", ("dramatiq", "-p", "1", "-t", str(THREADS), "raw_dramatiq"), None),
    Peer(
        "procrastinate",
        "procrastinate_app.py",
        ("procrastinate", "--app", "procrastinate_app.app", "worker", "--concurrency", str(THREADS)),
        "select count(*) from procrastinate_jobs where status = 'succeeded'",
    ),
    Peer(
        "celery",
        "celery_postgres.py",
        ("celery", "-A", "celery_postgres", "worker", "-P", "threads", "-c", str(THREADS), "-l", "ERROR"),
        "select count(*) from celery_taskmeta where status = 'SUCCESS'",
    ),
)


@dataclass(frozen=True, slots=True)
class PeerRun:
    enqueue_per_s: float
    drain_per_s: float


def run_peer(peer: Peer, total: int, *, programs: Path, database_url: str, redis_url: str, logs: Path) -> PeerRun:
    """One round: `total` tasks enqueued, then a worker started and watched. The database must be empty."""
    env = {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(PEERS),
        "BENCH_DATABASE_URL": database_url,
        "BENCH_REDIS_URL": redis_url,
    }
    printed = output_of([str(programs / "python"), peer.script, str(total)], env=env, cwd=PEERS)
    argv = [str(programs / peer.worker[0]), *peer.worker[1:]]
    with psycopg.connect(database_url, autocommit=True) as connection, redis.Redis.from_url(redis_url) as client:
        connection.execute("ANALYZE")
        with running(peer.name, argv, env=env, logs=logs) as worker:
            return PeerRun(float(printed), drain_rate(_counter(peer, connection, client), total, worker))


def _counter(peer: Peer, connection: psycopg.Connection[tuple[int]], client: redis.Redis) -> Callable[[], int]:
    if peer.rows is None:
        return lambda: int(client.get("bench:done") or 0)
    query = peer.rows.encode()

    def count() -> int:
        try:
            row = connection.execute(query).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0  # Celery makes its table when its worker starts
        return row[0] if row else 0

    return count
