"""
The moves of tasks between accept and final state, as fenced statements on the database's clock (laws 1 and 3).

Each function is one statement and so one transaction on an autocommit connection. A claim hands out a random token;
progress and finish are conditional on it, so a worker that lost its lease changes nothing. Statements that touch
several rows lock them in the order of their ids. The retry of a lost commit is the writer's (`core/tasks/writer.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from core.ids import PublicId, TaskId, WorkerId, new_task_id
from core.tasks.model import Claimed, Outcome, Task, TaskState
from core.tasks.rows import TASK_COLUMNS, select_list, task_from

_N = len(TASK_COLUMNS)

# The order is that of the index tasks_claim, so the statement reads as many rows as it takes, however deep the queue.
# The limit is in the text: with a parameter there PostgreSQL expects a generic plan to read a tenth of the table, and
# so plans anew at each claim of a deep queue (measured: + 0.5 ms on 1 ms).
_CLAIM = f"""
WITH picked AS MATERIALIZED (
    SELECT id FROM tasks
    WHERE ready AND {{solo}} AND queue = %(queue)s AND type = ANY(%(types)s)
    ORDER BY {{order}} LIMIT {{limit}} FOR UPDATE SKIP LOCKED
)
UPDATE tasks t SET state = 'processing', version = t.version + 1, changed_at = clock_timestamp(), ready = false,
    worker_id = %(worker)s, token = %(token)s, attempt = t.attempt + (t.poll_state IS NULL)::int, error = NULL,
    started_at = coalesce(t.started_at, clock_timestamp())
FROM picked WHERE t.id = picked.id AND t.ready
RETURNING {select_list("t")}, t.input, t.deadline_at, t.failures, t.rate_limits, t.crashes, t.poll_state, t.rank
"""  # noqa: S608 (only literals of ours are joined in)
_CLAIM_SHARED = _CLAIM.format(solo="NOT solo", order="queue, priority DESC, rank, id", limit="{limit:d}")
_CLAIM_SOLO = _CLAIM.format(solo="solo", order="queue, id", limit="{limit:d}")


def new_token() -> int:
    """63 random bits: never guessed, never drawn twice."""
    return secrets.randbits(63)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim got, best first, and the highest fair rank among it (0 when empty)."""

    tasks: list[Claimed]
    highest_rank: int


def claim(
    connection: sa.Connection,
    queue: str,
    types: Sequence[str],
    *,
    limit: int,
    worker: WorkerId,
    token: int | None = None,
    solo: bool = False,
) -> Claim:
    """
    Take up to `limit` ready tasks of the queue: highest priority first, then fair rank, then age.

    Never waits for rows that another claim holds; of two callers one gets a task.

    Args:
        token: the fence, of `new_token`; given by a caller that must recognise its claim when the answer is lost.
    """
    token = new_token() if token is None else token
    rows = connection.exec_driver_sql(
        (_CLAIM_SOLO if solo else _CLAIM_SHARED).format(limit=limit),
        {"queue": queue, "types": list(types), "worker": str(worker), "token": token},
    ).all()
    taken = sorted(rows, key=lambda row: (-row[5], row[_N + 6], row[0]))
    tasks = [
        Claimed(
            task=task_from(row),
            token=token,
            worker_id=worker,
            input_json=row[_N],
            deadline_at=row[_N + 1],
            failures=row[_N + 2],
            rate_limits=row[_N + 3],
            crashes=row[_N + 4],
            poll_state_json=row[_N + 5],
        )
        for row in taken
    ]
    return Claim(tasks, max((row[_N + 6] for row in taken), default=0))


_DISOWN = """
UPDATE tasks SET state = CASE WHEN poll_state IS NULL THEN 'pending' ELSE 'processing' END, version = version + 1,
    changed_at = clock_timestamp(), ready = true, worker_id = NULL, attempt = attempt - (poll_state IS NULL)::int
WHERE worker_id = %(worker)s AND token = ANY(%(tokens)s::bigint[])
RETURNING queue
"""


def disown(connection: sa.Connection, worker: WorkerId, tokens: Sequence[int]) -> int:
    """Return the tasks of claims whose answers were lost: this process holds them, and no thread knows it."""
    return len(connection.exec_driver_sql(_DISOWN, {"worker": str(worker), "tokens": list(tokens)}).all())


@dataclass(frozen=True, slots=True)
class Finish:
    """An outcome on its way to the row."""

    claimed: Claimed
    outcome: Outcome


# A finish that was asked to be cancelled meanwhile becomes the cancellation, unless it brings a final state itself.
_FINISH = """
WITH v AS (
    SELECT * FROM unnest(%(ids)b::uuid[], %(tokens)s::bigint[], %(states)b::text[], %(results)b::text[],
        %(errors)b::text[], %(afters)s::float8[], %(polls)b::text[], %(progresses)b::text[], %(undos)s::int[],
        %(failures)s::int[], %(rate_limits)s::int[])
    AS v(id, token, state, result, error, after_s, poll_state, progress, undo, failures, rate_limits)
), held AS (
    SELECT t.id, v.token, v.result, v.error, v.after_s, v.poll_state, v.progress, v.undo, v.failures, v.rate_limits,
        CASE WHEN v.state IN ('pending', 'processing') AND t.cancel_requested_at IS NOT NULL THEN 'cancelled'
            ELSE v.state END AS state
    FROM v JOIN tasks t USING (id)
    WHERE t.token = v.token AND t.worker_id IS NOT NULL
    ORDER BY t.id FOR UPDATE OF t
), done AS (
    UPDATE tasks t SET state = h.state, version = t.version + 1, changed_at = clock_timestamp(), worker_id = NULL,
        ready = h.state = 'pending' AND h.after_s <= 0,
        run_at = CASE WHEN h.state IN ('pending', 'processing')
            THEN clock_timestamp() + make_interval(secs => h.after_s) ELSE t.run_at END,
        finished_at = CASE WHEN h.state NOT IN ('pending', 'processing') THEN clock_timestamp() END,
        attempt = t.attempt - h.undo, failures = t.failures + h.failures, rate_limits = t.rate_limits + h.rate_limits,
        poll_state = h.poll_state, progress = coalesce(h.progress, t.progress), result = h.result, error = h.error
    FROM held h WHERE t.id = h.id AND t.token = h.token AND t.worker_id IS NOT NULL
    RETURNING t.id, t.state, t.version, t.changed_at, t.attempt, t.run_at, t.finished_at, t.progress
), told AS (
    INSERT INTO outbox (id, topic, payload, created_at)
    SELECT %(event)s, 'task.changed', %(public_ids)s, now()
), settled AS (
    DELETE FROM outbox WHERE id = ANY(%(settled)s::uuid[])
)
SELECT * FROM done
"""

_ALREADY_MINE = f"""
SELECT {select_list("t")} FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) AS v(id, token)
JOIN tasks t ON t.id = v.id AND t.token = v.token AND t.worker_id IS NULL
"""  # noqa: S608 (only literals of ours are joined in)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a batch of finishes wrote: the tasks as they are now (fenced ones are missing), and its outbox row."""

    tasks: dict[TaskId, Task]
    event: UUID


def finish(connection: sa.Connection, batch: Sequence[Finish], *, settled: Sequence[UUID] = ()) -> Finished:
    """
    Write the outcomes; rows that this token does not hold any more stay as they are.

    Sending the same batch again after a lost answer is harmless: what was written is recognised by its token.

    Args:
        settled: outbox rows that were announced and can go, in the same transaction.
    """
    event = new_task_id()
    ids = [str(f.claimed.task.id) for f in batch]
    tokens = [f.claimed.token for f in batch]
    outcomes = [f.outcome for f in batch]
    rows = connection.exec_driver_sql(
        _FINISH,
        {
            "ids": ids,
            "tokens": tokens,
            "states": [str(o.state) for o in outcomes],
            "results": [o.result_json for o in outcomes],
            "errors": [error_json(o) for o in outcomes],
            "afters": [o.after.total_seconds() for o in outcomes],
            "polls": [o.poll_state_json for o in outcomes],
            "progresses": [o.progress_json for o in outcomes],
            "undos": [int(o.undo_attempt) for o in outcomes],
            "failures": [int(o.counts_as == "failure") for o in outcomes],
            "rate_limits": [int(o.counts_as == "rate_limit") for o in outcomes],
            "event": str(event),
            "public_ids": orjson.dumps([f.claimed.task.public_id for f in batch]).decode(),
            "settled": [str(s) for s in settled],
        },
    ).all()
    written = {f.claimed.task.id: f for f in batch}
    tasks = {row[0]: _as_written(written[row[0]], row) for row in rows}
    if len(tasks) < len(batch):
        again = connection.exec_driver_sql(_ALREADY_MINE, {"ids": ids, "tokens": tokens}).all()
        tasks.update({row[0]: task_from(row) for row in again if row[0] not in tasks})
    return Finished(tasks, event)


def error_json(outcome: Outcome) -> str | None:
    error = outcome.error
    if error is None:
        return None
    return orjson.dumps({"code": error.code, "message": error.message, "retryable": error.retryable}).decode()


def _as_written(written: Finish, row: Sequence[Any]) -> Task:
    return replace(
        written.claimed.task,
        state=TaskState(row[1]),
        version=row[2],
        changed_at=row[3],
        attempt=row[4],
        run_at=row[5],
        finished_at=row[6],
        progress_json=row[7],
        result_json=written.outcome.result_json,
        error_json=error_json(written.outcome),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest progress of one held task: JSON text `{"percent": 40.0, "message": "encoding"}`."""

    task_id: TaskId
    token: int
    progress_json: str


_PROGRESS = f"""
WITH v AS (SELECT * FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[], %(progresses)s::text[]) AS v(id, token, progress)),
held AS (
    SELECT t.id, v.progress FROM v JOIN tasks t USING (id)
    WHERE t.token = v.token AND t.worker_id IS NOT NULL ORDER BY t.id FOR UPDATE OF t
)
UPDATE tasks t SET progress = h.progress, version = t.version + 1, changed_at = clock_timestamp()
FROM held h WHERE t.id = h.id AND t.worker_id IS NOT NULL
RETURNING {select_list("t")}
"""  # noqa: S608, E501 (only literals of ours are joined in)


def report_progress(connection: sa.Connection, reports: Sequence[Progress]) -> list[Task]:
    """Write progress of tasks still held by these tokens; returns those that changed."""
    rows = connection.exec_driver_sql(
        _PROGRESS,
        {
            "ids": [str(r.task_id) for r in reports],
            "tokens": [r.token for r in reports],
            "progresses": [r.progress_json for r in reports],
        },
    ).all()
    return [task_from(row) for row in rows]


_CANCEL = f"""
WITH changed AS (
    UPDATE tasks t SET cancel_requested_at = coalesce(t.cancel_requested_at, clock_timestamp()),
        state = CASE WHEN t.worker_id IS NULL THEN 'cancelled' ELSE t.state END,
        finished_at = CASE WHEN t.worker_id IS NULL THEN clock_timestamp() END,
        version = t.version + (t.worker_id IS NULL)::int,
        changed_at = CASE WHEN t.worker_id IS NULL THEN clock_timestamp() ELSE t.changed_at END,
        ready = false, error = NULL
    WHERE t.public_id = %(public_id)s AND (%(owner)s::text IS NULL OR t.owner_id = %(owner)s) AND t.finished_at IS NULL
    RETURNING {select_list("t")}, t.worker_id
), told AS (
    INSERT INTO outbox (id, topic, payload, created_at)
    SELECT %(event)s, 'task.changed', json_build_array(public_id)::text, now() FROM changed WHERE worker_id IS NULL
)
SELECT * FROM changed
"""  # noqa: S608 (only literals of ours are joined in)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A cancel that took effect (`worker_id` None: the task is final, `event` is its outbox row) or was noted."""

    task: Task
    worker_id: WorkerId | None
    event: UUID


def cancel(connection: sa.Connection, public_id: PublicId, *, owner: str | None) -> Cancellation | None:
    """End a waiting or parked task now, or note the intent on a running one. None: no such task, or it is final."""
    event = new_task_id()
    row = connection.exec_driver_sql(_CANCEL, {"public_id": public_id, "owner": owner, "event": str(event)}).first()
    if row is None:
        return None
    return Cancellation(task_from(row), row[_N], event)


def settle(connection: sa.Connection, events: Sequence[UUID]) -> None:
    """Delete outbox rows that were announced."""
    connection.exec_driver_sql("DELETE FROM outbox WHERE id = ANY(%(ids)s::uuid[])", {"ids": [str(e) for e in events]})
