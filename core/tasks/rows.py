"""The columns of a task that its owner may see, and how a row becomes a `Task`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from core.ids import KeyId, PublicId, TaskId
from core.tasks.model import Task, TaskState

TASK_COLUMNS = (
    "id",
    "public_id",
    "owner_id",
    "type",
    "queue",
    "priority",
    "state",
    "version",
    "changed_at",
    "attempt",
    "max_attempts",
    "created_at",
    "run_at",
    "started_at",
    "finished_at",
    "retry_of",
    "cancel_requested_at",
    "progress",
    "result",
    "error",
    "metadata",
)


def select_list(alias: str) -> str:
    """`t.id, t.public_id, ...` for hand-written statements; `alias` is a literal of ours."""
    return ", ".join(f"{alias}.{column}" for column in TASK_COLUMNS)


def task_from(row: Sequence[Any]) -> Task:
    """A `Task` from the first 21 values of a row selected by `select_list`."""
    return Task(
        id=TaskId(row[0] if isinstance(row[0], UUID) else UUID(str(row[0]))),
        public_id=PublicId(row[1]),
        owner_id=KeyId(row[2]),
        type=row[3],
        queue=row[4],
        priority=row[5],
        state=TaskState(row[6]),
        version=row[7],
        changed_at=row[8],
        attempt=row[9],
        max_attempts=row[10],
        created_at=row[11],
        run_at=row[12],
        started_at=row[13],
        finished_at=row[14],
        retry_of=row[15],
        cancel_requested=row[16] is not None,
        progress_json=row[17],
        result_json=row[18],
        error_json=row[19],
        metadata_json=row[20],
    )
