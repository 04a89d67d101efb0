"""
What a task is: its states, its legal moves and the forms in which it travels.

Pure values; nothing here does I/O. The row itself is documented in `core/schema.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from core.ids import KeyId, PublicId, TaskId, WorkerId

DEFAULT_QUEUE = "default"
DEFAULT_PRIORITY = 5
DEFAULT_MAX_ATTEMPTS = 3


class TaskState(StrEnum):
    """The seed's six states; the last four are final and never left (law 1)."""

    PENDING = "pending"
    """Waiting for a worker: set at accept, for a retry, and when a dead or stopping worker's task returns. Left by a
    claim, a cancel or the deadline. A crash changes nothing: nobody holds it."""

    PROCESSING = "processing"
    """Claimed by a worker process (`worker_id`, `token`), or parked between two polls of the provider (no worker).
    Left by the holder's finish, by the sweeper when the holder's lease ended, by cancel or deadline when parked."""

    COMPLETED = "completed"
    """The handler's result was stored. Final."""

    FAILED = "failed"
    """The last failure was not retryable, or a budget (attempts, rate limits, crashes) is used up. Final."""

    CANCELLED = "cancelled"
    """The owner asked, and no finish came first. Final."""

    TIMED_OUT = "timed_out"
    """The deadline passed first, waiting or running. Final."""

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.TIMED_OUT})

LEGAL_MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset(
        {TaskState.PROCESSING, TaskState.CANCELLED, TaskState.TIMED_OUT, TaskState.FAILED},
    ),
    TaskState.PROCESSING: frozenset({TaskState.PROCESSING, TaskState.PENDING, *FINAL_STATES}),
    **{state: frozenset[TaskState]() for state in FINAL_STATES},
}
"""Every move a statement in `core/tasks/` may make; the database trigger of the first migration refuses all others."""


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed, as its owner sees it. `code` is for programs: `provider_error`, `worker_lost`, ..."""

    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """
    A validated task on its way into the store.

    Args:
        input_json: the input model's canonical JSON.
        run_at: not before this time; None: at once.
        deadline: from acceptance (or `run_at`) to a final state, waiting and retries included.
        metadata_json: the owner's own JSON object, handed back unchanged.
    """

    id: TaskId
    public_id: PublicId
    owner_id: KeyId
    type: str
    input_json: str
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    run_at: datetime | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    deadline: timedelta = timedelta(seconds=600)
    metadata_json: str = "{}"
    retry_of: PublicId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """
    A task as its owner may see it: everything but the input, the token and who runs it.

    `progress_json`, `result_json`, `error_json` and `metadata_json` are JSON text, stored and handed on verbatim.
    """

    id: TaskId
    public_id: PublicId
    owner_id: KeyId
    type: str
    queue: str
    priority: int
    state: TaskState
    version: int
    changed_at: datetime
    attempt: int
    max_attempts: int
    created_at: datetime
    run_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_of: PublicId | None = None
    cancel_requested: bool = False
    progress_json: str | None = None
    result_json: str | None = None
    error_json: str | None = None
    metadata_json: str = "{}"
    wire: bytes | None = None
    """Of an archived task: the wire form it had; its result, error and metadata are only in there."""

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.version, int(self.changed_at.timestamp() * 1_000_000))

    @property
    def result(self) -> Any:  # the handler's JSON, whatever its shape
        return None if self.result_json is None else load_json(self.result_json)

    @property
    def error(self) -> TaskError | None:
        return None if self.error_json is None else TaskError(**orjson.loads(self.error_json))

    def to_json(self) -> bytes:
        """The wire form of the contract (`docs/contract.md`)."""
        if self.wire is not None:
            return self.wire
        return orjson.dumps(
            {
                "id": self.public_id,
                "type": self.type,
                "queue": self.queue,
                "priority": self.priority,
                "state": self.state.value,
                "version": self.version,
                "attempt": self.attempt,
                "max_attempts": self.max_attempts,
                "progress": _fragment(self.progress_json) or NO_PROGRESS,
                "result": _fragment(self.result_json),
                "error": _fragment(self.error_json),
                "retry_of": self.retry_of,
                "created_at": self.created_at,
                "run_at": self.run_at,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
                "metadata": _fragment(self.metadata_json),
            },
            option=orjson.OPT_UTC_Z,
        )


NO_PROGRESS = {"percent": None, "message": None}


def load_json(text: str | bytes) -> Any:
    """Parse a result, or a task that holds one."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # lone surrogates in a provider's text: JSON all the same, but not to orjson
        return json.loads(text)


def _fragment(text: str | None) -> orjson.Fragment | None:
    return None if text is None else orjson.Fragment(text)


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """The order of a task's copies: version first, then change time (microseconds since 1970, UTC)."""

    version: int
    changed_us: int

    @property
    def etag(self) -> str:
        return f'"{self.version}-{self.changed_us}"'

    @classmethod
    def from_etag(cls, text: str) -> Stamp | None:
        """None for anything we did not make; weak and quoted forms are accepted."""
        version, dash, changed = text.strip().removeprefix("W/").strip('"').partition("-")
        if not dash or not (version.isascii() and version.isdigit() and changed.isascii() and changed.isdigit()):
            return None
        if len(version) > 10 or len(changed) > 17:
            return None
        return cls(int(version), int(changed))


@dataclass(frozen=True, slots=True)
class Claimed:
    """One task in a worker's hands, with the fencing token of this claim."""

    task: Task
    token: int
    worker_id: WorkerId
    input_json: str
    deadline_at: datetime
    failures: int
    rate_limits: int
    crashes: int
    poll_state_json: str | None = None
    """What the handler's last `poll_again` left; None on a first run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What a finish writes. `state` final, or PENDING for a retry, or PROCESSING to park.

    Args:
        after: for PENDING and PROCESSING: how long until the task is ready again.
        undo_attempt: the claim is returned as if it had not happened (the handler was never started).
        counts_as: which budget this attempt used up: "failure", "rate_limit" or None.
    """

    state: TaskState
    result_json: str | None = None
    error: TaskError | None = None
    after: timedelta = field(default=timedelta())
    poll_state_json: str | None = None
    progress_json: str | None = None
    undo_attempt: bool = False
    counts_as: str | None = None

    @classmethod
    def returned(cls, claimed: Claimed) -> Outcome:
        """The claim never happened: its handler was not started. A parked task stays parked."""
        parked = claimed.poll_state_json is not None
        return cls(
            state=TaskState.PROCESSING if parked else TaskState.PENDING,
            poll_state_json=claimed.poll_state_json,
            undo_attempt=not parked,
        )
