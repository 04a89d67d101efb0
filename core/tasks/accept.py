"""
Accepting tasks: rows, fair ranks and idempotency in one transaction, on a connection that the caller gives.

A task is accepted when the transaction commits, and not before. One statement inserts any number of tasks.
Fair rank (ours, after start-time fair queueing): an owner's next task gets max(rank of its last, the queue's virtual
time) + 1, so a burst of one owner lies interleaved with the others' tasks and idle owners gather no credit.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from core.errors import IdempotencyMismatch, Unavailable
from core.ids import KeyId, PublicId, TaskId
from core.tasks.model import NewTask, Task, TaskState

IDEMPOTENCY_WINDOW_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's own name for a request; `body_hash` tells a repetition from another request."""

    key: str
    body_hash: bytes

    @classmethod
    def of(cls, key: str, canonical_body: bytes) -> Idempotency:
        return cls(key, hashlib.sha256(canonical_body).digest())


@dataclass(frozen=True, slots=True)
class Replayed:
    """The request was accepted before: these are its tasks, in their first order."""

    task_ids: tuple[TaskId, ...]


_INSERT = """
WITH new AS (
    SELECT * FROM unnest(%(ids)b::uuid[], %(public_ids)b::text[], %(owners)b::text[], %(types)b::text[],
        %(queues)b::text[], %(priorities)s::int[], %(max_attempts)s::int[], %(inputs)b::text[], %(metadatas)b::text[],
        %(retry_ofs)b::text[], %(run_ats)s::timestamptz[], %(deadlines)s::float8[], %(places)s::int[])
    AS n(id, public_id, owner_id, type, queue, priority, max_attempts, input, metadata, retry_of, run_at, deadline_s,
         place)
), ranked AS (
    INSERT INTO owner_ranks AS r (queue, owner_id, rank)
    SELECT c.queue, c.owner_id, q.virtual_time + c.number
    FROM unnest(%(rank_queues)s::text[], %(rank_owners)s::text[], %(rank_numbers)s::int[])
        AS c(queue, owner_id, number) JOIN queues q ON q.name = c.queue
    ORDER BY 1, 2
    ON CONFLICT (queue, owner_id) DO UPDATE SET rank =
        greatest(r.rank, (SELECT q.virtual_time FROM queues q WHERE q.name = excluded.queue))
        + excluded.rank - (SELECT q.virtual_time FROM queues q WHERE q.name = excluded.queue)
    RETURNING r.queue, r.owner_id, r.rank
), inserted AS (
    INSERT INTO tasks (id, public_id, owner_id, type, queue, priority, max_attempts, input, metadata, retry_of,
        created_at, deadline_s, deadline_at, state, version, changed_at, rank, ready, solo, run_at, attempt, failures,
        rate_limits, crashes)
    SELECT n.id, n.public_id, n.owner_id, n.type, n.queue, n.priority, n.max_attempts, n.input, n.metadata, n.retry_of,
        now(), n.deadline_s, greatest(now(), n.run_at) + make_interval(secs => n.deadline_s), 'pending', 1, now(),
        r.rank - n.place, n.run_at IS NULL OR n.run_at <= now(), false, greatest(now(), n.run_at), 0, 0, 0, 0
    FROM new n JOIN ranked r USING (queue, owner_id)
    RETURNING 1
)
-- A task whose queue is not there was dropped by the join: then nothing of the statement may stay.
SELECT now(), 1 / (count(*) = %(number)s)::int FROM inserted
"""

_REMEMBER = """
INSERT INTO idempotency_keys AS k (owner_id, key, body_hash, task_ids, created_at)
VALUES (%(owner)s, %(key)s, %(hash)s, %(ids)s, now())
ON CONFLICT (owner_id, key) DO UPDATE SET body_hash = excluded.body_hash, task_ids = excluded.task_ids,
    created_at = excluded.created_at
WHERE k.created_at < now() - make_interval(secs => %(window)s)
RETURNING 1
"""

_RECALL = """
SELECT body_hash, task_ids FROM idempotency_keys
WHERE owner_id = %(owner)s AND key = %(key)s AND created_at >= now() - make_interval(secs => %(window)s)
"""


def remember(
    connection: sa.Connection, idempotency: Idempotency, *, owner: KeyId, ids: Sequence[TaskId]
) -> Replayed | None:
    """
    Write down the key inside the accepting transaction; None when it is new (or older than 24 h).

    Waits for a concurrent request with the same key to commit or roll back.

    Raises:
        IdempotencyMismatch: the key was used for another body.
    """
    values = {
        "owner": owner,
        "key": idempotency.key,
        "hash": idempotency.body_hash,
        "ids": list(ids),
        "window": IDEMPOTENCY_WINDOW_S,
    }
    if connection.exec_driver_sql(_REMEMBER, values).first() is not None:
        return None
    replayed = recall(connection, idempotency, owner=owner)
    if replayed is None:  # it turned a day old and was forgotten between the two statements
        raise Unavailable("the idempotency key ended just now; send it again", retry_after_s=1)
    return replayed


def recall(connection: sa.Connection, idempotency: Idempotency, *, owner: KeyId) -> Replayed | None:
    """
    What the key stands for already; None: nothing, or nothing that is committed yet.

    Raises:
        IdempotencyMismatch: the key was used for another body.
    """
    values = {"owner": owner, "key": idempotency.key, "window": IDEMPOTENCY_WINDOW_S}
    row = connection.exec_driver_sql(_RECALL, values).first()
    if row is None:
        return None
    if bytes(row[0]) != idempotency.body_hash:
        raise IdempotencyMismatch(
            "this Idempotency-Key was used for another request in the last 24 h; use a new key for a new request"
        )
    return Replayed(tuple(TaskId(UUID(str(task_id))) for task_id in row[1]))


def insert(connection: sa.Connection, tasks: Sequence[NewTask]) -> datetime:
    """
    Insert the tasks, in one statement; returns the time of acceptance.

    Locks the owners' rank rows in (queue, owner) order until the transaction ends, so call it last in yours.
    The queues must exist: a division by zero ends the statement when one vanished since the caller checked.
    """
    counts: Counter[tuple[str, str]] = Counter()
    places: list[int] = []
    for task in tasks:
        places.append(counts[task.queue, task.owner_id])
        counts[task.queue, task.owner_id] += 1
    lanes = sorted(counts)
    # `place` counts down from the lane's new highest rank: the last task has place 0.
    seen = [counts[task.queue, task.owner_id] - 1 - place for task, place in zip(tasks, places, strict=True)]
    row = connection.exec_driver_sql(
        _INSERT,
        {
            "number": len(tasks),
            "ids": [str(t.id) for t in tasks],
            "public_ids": [t.public_id for t in tasks],
            "owners": [t.owner_id for t in tasks],
            "types": [t.type for t in tasks],
            "queues": [t.queue for t in tasks],
            "priorities": [t.priority for t in tasks],
            "max_attempts": [t.max_attempts for t in tasks],
            "inputs": [t.input_json for t in tasks],
            "metadatas": [t.metadata_json for t in tasks],
            "retry_ofs": [t.retry_of for t in tasks],
            "run_ats": [t.run_at for t in tasks],
            "deadlines": [t.deadline.total_seconds() for t in tasks],
            "places": seen,
            "rank_queues": [queue for queue, _ in lanes],
            "rank_owners": [owner for _, owner in lanes],
            "rank_numbers": [counts[lane] for lane in lanes],
        },
    ).one()
    accepted_at: datetime = row[0]
    return accepted_at


def as_accepted(task: NewTask, accepted_at: datetime) -> Task:
    """The first version of the task, as a client sees it."""
    run_at = max(accepted_at, task.run_at) if task.run_at else accepted_at
    return Task(
        id=task.id,
        public_id=PublicId(task.public_id),
        owner_id=task.owner_id,
        type=task.type,
        queue=task.queue,
        priority=task.priority,
        state=TaskState.PENDING,
        version=1,
        changed_at=accepted_at,
        attempt=0,
        max_attempts=task.max_attempts,
        created_at=accepted_at,
        run_at=run_at,
        retry_of=task.retry_of,
        metadata_json=task.metadata_json,
    )
