"""Reads of tasks from their rows: one by id, pages by owner, those of an idempotency key. Always the primary."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from core.errors import InvalidRequest
from core.ids import PublicId, TaskId
from core.schema import tasks
from core.tasks.model import Task, TaskState
from core.tasks.rows import TASK_COLUMNS, task_from

MAX_PAGE = 200
_COLUMNS = [tasks.c[name] for name in TASK_COLUMNS]


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Newest first; `next_cursor` is None on the last page."""

    tasks: list[Task]
    next_cursor: str | None


def by_public_id(connection: sa.Connection, public_id: PublicId) -> Task | None:
    row = connection.execute(sa.select(*_COLUMNS).where(tasks.c.public_id == public_id)).first()
    return None if row is None else task_from(row)


def with_input(connection: sa.Connection, public_id: PublicId, *, owner: str | None) -> tuple[Task, str, float] | None:
    """The task, its input's JSON text and its deadline in seconds, for a manual retry."""
    query = sa.select(*_COLUMNS, tasks.c.input, tasks.c.deadline_s).where(tasks.c.public_id == public_id)
    if owner is not None:
        query = query.where(tasks.c.owner_id == owner)
    row = connection.execute(query).first()
    return None if row is None else (task_from(row), row[len(_COLUMNS)], row[len(_COLUMNS) + 1])


def by_ids(connection: sa.Connection, ids: Sequence[TaskId]) -> list[Task]:
    """In the order of `ids`; missing ones are left out."""
    rows = connection.execute(sa.select(*_COLUMNS).where(tasks.c.id.in_(ids)))
    found = {task.id: task for task in map(task_from, rows)}
    return [found[task_id] for task_id in ids if task_id in found]


def by_public_ids(connection: sa.Connection, public_ids: Sequence[str]) -> list[Task]:
    rows = connection.execute(sa.select(*_COLUMNS).where(tasks.c.public_id.in_(public_ids)))
    return [task_from(row) for row in rows]


def page(
    connection: sa.Connection,
    *,
    owner: str | None,
    state: TaskState | None = None,
    type: str | None = None,
    queue: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> TaskPage:
    """
    A page of tasks, newest first, by key and never by offset.

    Raises:
        InvalidRequest: `limit` or `cursor` is not one of ours.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}", field="limit")
    query = sa.select(*_COLUMNS).order_by(tasks.c.id.desc()).limit(limit + 1)
    filters = (
        (tasks.c.owner_id, owner),
        (tasks.c.state, state),
        (tasks.c.type, type),
        (tasks.c.queue, queue),
    )
    for column, value in filters:
        if value is not None:
            query = query.where(column == str(value))
    if cursor is not None:
        query = query.where(tasks.c.id < decode_cursor(cursor))
    found = [task_from(row) for row in connection.execute(query)]
    more = len(found) > limit
    found = found[:limit]
    return TaskPage(found, encode_cursor(found[-1].id) if more else None)


def encode_cursor(task_id: TaskId) -> str:
    return base64.urlsafe_b64encode(task_id.bytes).rstrip(b"=").decode()


def decode_cursor(text: str) -> UUID:
    try:
        raw = base64.b64decode(text + "==", altchars=b"-_", validate=True)
        return UUID(bytes=raw)
    except (binascii.Error, ValueError):
        raise InvalidRequest("cursor is not one that this server made; start without it", field="cursor") from None
