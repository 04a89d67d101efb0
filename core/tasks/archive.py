"""
Old final tasks, out of the way of the live ones: kept in the form their owners read them in, then deleted.

An archived task is still answered by id, with the same bytes and ETag; it is in no list, and its input is gone, so it
cannot be retried. Every step is one short transaction that skips locked rows; doing one twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from core.ids import KeyId, PublicId, TaskId
from core.schema import archived_tasks
from core.tasks.model import Task, TaskState, load_json
from core.tasks.rows import select_list, task_from

BATCH = 500  # rows locked at once: final ones, which nobody else wants
MOST_BYTES = 8 * 1024 * 1024  # of results in one batch: what the process holds in memory
FIRST_ID = TaskId(UUID(int=0))

# By ascending id, which is the order of creation, so that the cut-off bounds the scan without an index of its own.
_OLD = """
SELECT id, coalesce(octet_length(result), 0) + octet_length(metadata) FROM tasks
WHERE id > %(after)s AND id < %(bound)s AND finished_at < %(before)s ORDER BY id LIMIT %(limit)s
"""

_READ = f"SELECT {select_list('t')} FROM tasks t WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE SKIP LOCKED"  # noqa: S608 (only literals of ours are joined in)

_STORE = """
INSERT INTO archived_tasks (id, public_id, owner_id, version, changed_at, finished_at, task)
SELECT * FROM unnest(%(ids)s::uuid[], %(public_ids)s::text[], %(owners)s::text[], %(versions)s::int[],
    %(changes)s::timestamptz[], %(ends)s::timestamptz[], %(tasks)s::text[])
ON CONFLICT DO NOTHING
"""

_DELETE_OLD = """
DELETE FROM archived_tasks WHERE id IN (
    SELECT id FROM archived_tasks WHERE finished_at < %(before)s ORDER BY finished_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED)
RETURNING public_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """
    One batch.

    Args:
        last: where the next batch goes on; None: there is nothing older.
    """

    public_ids: list[PublicId]
    last: TaskId | None


def archive(connection: sa.Connection, *, before: datetime, after: TaskId = FIRST_ID) -> Archived:
    """
    Move a batch of tasks that were final before a time; inside the caller's transaction.

    Args:
        after: the `last` of the batch before.
    """
    values = {"after": after, "bound": first_id_of(before), "before": before, "limit": BATCH}
    ids = _within(MOST_BYTES, [(row[0], row[1]) for row in connection.exec_driver_sql(_OLD, values)])
    if not ids:
        return Archived(public_ids=[], last=None)
    moved = [task_from(row) for row in connection.exec_driver_sql(_READ, {"ids": ids})]
    connection.exec_driver_sql(
        _STORE,
        {
            "ids": [task.id for task in moved],
            "public_ids": [task.public_id for task in moved],
            "owners": [task.owner_id for task in moved],
            "versions": [task.version for task in moved],
            "changes": [task.changed_at for task in moved],
            "ends": [task.finished_at for task in moved],
            "tasks": [task.to_json().decode() for task in moved],
        },
    )
    connection.exec_driver_sql("DELETE FROM tasks WHERE id = ANY(%(ids)s)", {"ids": [task.id for task in moved]})
    return Archived(public_ids=[task.public_id for task in moved], last=TaskId(ids[-1]))


def delete(connection: sa.Connection, *, before: datetime) -> list[PublicId]:
    """Delete a batch of archived tasks that were final before a time; empty: none is left."""
    rows = connection.exec_driver_sql(_DELETE_OLD, {"before": before, "limit": BATCH})
    return [PublicId(row[0]) for row in rows]


def find(connection: sa.Connection, public_id: PublicId) -> Task | None:
    """The task as it was read last; its wire form is the stored one, to the letter."""
    row = (
        connection.execute(sa.select(archived_tasks).where(archived_tasks.c.public_id == public_id)).mappings().first()
    )
    if row is None:
        return None
    wire = load_json(row["task"])
    return Task(
        id=TaskId(row["id"]),
        public_id=public_id,
        owner_id=KeyId(row["owner_id"]),
        type=wire["type"],
        queue=wire["queue"],
        priority=wire["priority"],
        state=TaskState(wire["state"]),
        version=row["version"],
        changed_at=row["changed_at"],
        attempt=wire["attempt"],
        max_attempts=wire["max_attempts"],
        created_at=datetime.fromisoformat(wire["created_at"]),
        run_at=datetime.fromisoformat(wire["run_at"]),
        finished_at=row["finished_at"],
        wire=row["task"].encode(),
    )


def first_id_of(at: datetime) -> TaskId:
    """The least id of a task made at that time: a UUIDv7 begins with its milliseconds."""
    return TaskId(UUID(int=max(0, int(at.timestamp() * 1000)) << 80))


def _within(most_bytes: int, sizes: Sequence[tuple[UUID, int]]) -> list[UUID]:
    """The first ids whose sizes together are within the bound, and at least one."""
    ids: list[UUID] = []
    total = 0
    for task_id, size in sizes:
        total += size
        if ids and total > most_bytes:
            break
        ids.append(task_id)
    return ids
