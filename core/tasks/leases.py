"""
Leases are per worker process: one row, one heartbeat. A task carries its holder and a token, never a lease of its own.

A process silent for its lease is declared dead (`died_at`), once and for good: it can neither claim nor finish, even
when it wakes up later. Its tasks are returned by the sweeper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from core.ids import PublicId, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """
    One life of one worker process.

    Args:
        lease_s: silence after which it is dead.
    """

    id: WorkerId
    name: str
    host: str
    pid: int
    queues: Sequence[str]
    lease_s: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`alive` False: declared dead, stop everything. `cancelled`: held tasks that their owners want stopped."""

    alive: bool
    cancelled: list[PublicId]


def register(connection: sa.Connection, worker: WorkerRow) -> None:
    """Begin a life; the id must be new."""
    connection.exec_driver_sql(
        """INSERT INTO workers (id, name, host, pid, queues, lease_s, started_at, heartbeat_at)
        VALUES (%(id)s, %(name)s, %(host)s, %(pid)s, %(queues)s, %(lease_s)s, now(), now())""",
        {
            "id": str(worker.id),
            "name": worker.name,
            "host": worker.host,
            "pid": worker.pid,
            "queues": list(worker.queues),
            "lease_s": worker.lease_s,
        },
    )


def heartbeat(connection: sa.Connection, worker_id: WorkerId) -> Heartbeat:
    """Say that the process lives, and learn which of its tasks to stop."""
    values = {"id": str(worker_id)}
    row = connection.exec_driver_sql(
        "UPDATE workers SET heartbeat_at = clock_timestamp() WHERE id = %(id)s AND died_at IS NULL RETURNING 1", values
    ).first()
    if row is None:
        return Heartbeat(alive=False, cancelled=[])
    cancelled = connection.exec_driver_sql(
        "SELECT public_id FROM tasks WHERE worker_id = %(id)s AND cancel_requested_at IS NOT NULL", values
    )
    return Heartbeat(alive=True, cancelled=[PublicId(r[0]) for r in cancelled])


def stop(connection: sa.Connection, worker_id: WorkerId) -> None:
    """End a life cleanly: everything it held was finished or returned before. What was not, the sweeper returns."""
    connection.exec_driver_sql(
        """UPDATE workers SET stopped_at = clock_timestamp(), died_at = clock_timestamp()
        WHERE id = %(id)s AND died_at IS NULL""",
        {"id": str(worker_id)},
    )


def bury(connection: sa.Connection, worker_id: WorkerId) -> bool:
    """Declare a process dead whose end was seen; False when it was dead, stopped or unknown already."""
    row = connection.exec_driver_sql(
        "UPDATE workers SET died_at = clock_timestamp() WHERE id = %(id)s AND died_at IS NULL RETURNING 1",
        {"id": str(worker_id)},
    ).first()
    return row is not None


def now(connection: sa.Connection) -> datetime:
    """The database's clock."""
    at: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return at


def bury_silent(connection: sa.Connection, as_of: datetime) -> list[WorkerId]:
    """
    Declare dead who was silent for its lease.

    Not within a lease of the server's start: while the database was away nobody could say that it lives.

    Args:
        as_of: until when silence counts, from `now` before the caller made sure that nothing stood still: what a
            server that freezes after that adds to it is not silence.
    """
    rows = connection.exec_driver_sql(
        """UPDATE workers SET died_at = clock_timestamp() WHERE id IN (
            SELECT id FROM workers
            WHERE died_at IS NULL AND heartbeat_at < %(as_of)s - make_interval(secs => lease_s)
                AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => lease_s)
            ORDER BY id FOR UPDATE SKIP LOCKED)
        RETURNING id""",
        {"as_of": as_of},
    )
    return [WorkerId(row[0]) for row in rows]
