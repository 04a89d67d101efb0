"""
From the body of a request to accepted tasks: envelope, input, queue, idempotency, group commit.

Small bodies are checked on the event loop, large ones in a thread. Nothing is stored unless all of it is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.access.keys.model import VirtualKey
from core.access.keys.permissions import check_allowed, named_model
from core.errors import Conflict, InvalidRequest, UnknownQueue, UnknownTaskType
from core.task_types.spec import TaskInput, TaskTypes
from core.tasks.accept import Idempotency
from core.tasks.acceptance import ACCEPT_TIMEOUT_S, BULK, Accepted, canonical_bytes, check_idempotency_key
from core.tasks.client import TaskClient
from core.tasks.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, NewTask
from core.tasks.validation import MAX_ATTEMPTS, MAX_DEADLINE, TaskOptions, build, first_problem, validate_input
from web.bodies import parse
from web.landing import Landing
from web.threads import Threads

SMALL_BYTES = 16 * 1024  # a body of this size takes the loop well under a millisecond
_KNOWN_QUEUES = 1000
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

Name = Annotated[str, Field(min_length=1, max_length=100)]


class NewTaskBody(BaseModel):
    """One task as a producer sends it; null is the same as absent for all that is optional."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    type: Name = Field(description="A task type of this server.")
    input: dict[str, object] = Field(description="What the type wants; for provider types the provider's request body.")
    queue: Name | None = Field(default=None, description=f"An existing queue; `{DEFAULT_QUEUE}` when absent.")
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(
        default=None, description=f"Higher runs first; {DEFAULT_PRIORITY} when absent."
    )
    run_at: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="Not before this time, RFC 3339 with a zone; at most 366 days ahead."
    )
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="Failures allowed, the first try included; the type's own number when absent."
    )
    deadline_s: Annotated[float, Field(ge=1, le=MAX_DEADLINE.total_seconds())] | None = Field(
        default=None, description="Seconds from acceptance (or run_at) to a final state; the type's own when absent."
    )
    metadata: dict[str, object] | None = Field(
        default=None, description="Your own JSON object, handed back unchanged; at most 16 KiB."
    )


class BatchBody(BaseModel):
    """Tasks that are accepted together or not at all."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tasks: Annotated[list[object], Field(min_length=1, max_length=BULK)]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Validated tasks of one request, on their way to be accepted together."""

    tasks: list[NewTask]
    idempotency: Idempotency | None = None


class Intake:
    """
    Accepts what requests bring.

    Args:
        check_model: refuses what the input's model is known not to do; memory only.
    """

    def __init__(
        self,
        tasks: TaskClient,
        types: TaskTypes,
        landing: Landing,
        threads: Threads,
        *,
        check_model: Callable[[TaskInput], None],
    ) -> None:
        self._tasks = tasks
        self._types = types
        self._check_model = check_model
        self._landing = landing
        self._threads = threads
        self._queues: set[str] = set()

    async def prepare(
        self, body: bytes, *, key: VirtualKey, idempotency_key: str | None, is_batch: bool = False
    ) -> Prepared:
        """
        What the body asks to have accepted; nothing is stored yet.

        Raises:
            InvalidRequest: names the first bad field.
            NotAllowed: the key may not use the type or the model of one of them.
            Unavailable: a queue could not be looked up.
        """
        if idempotency_key is not None:
            check_idempotency_key(idempotency_key)
        if len(body) <= SMALL_BYTES:
            prepared = self._build(body, key, idempotency_key, is_batch)
        else:
            prepared = await self._threads.run(
                lambda: self._build(body, key, idempotency_key, is_batch), failure="nothing was accepted"
            )
        await self._check_queues(prepared.tasks, is_batch=is_batch)
        return prepared

    async def accept(self, prepared: Prepared) -> Accepted:
        """
        Returns after the commit.

        Raises:
            IdempotencyMismatch: the key was used for another body.
            Unavailable: not known to be accepted; to be sent again with the same idempotency key.
        """
        future: Future[Accepted] = self._tasks.submit(prepared.tasks, prepared.idempotency)
        accepted = await self._landing.result(
            future, timeout_s=ACCEPT_TIMEOUT_S, failure="it is not known whether the request was accepted"
        )
        if len(accepted.tasks) != len(prepared.tasks):
            raise Conflict("tasks of this Idempotency-Key are gone; use a new key")
        return accepted

    def _build(self, body: bytes, key: VirtualKey, idempotency_key: str | None, is_batch: bool) -> Prepared:
        value = parse(body)
        tasks = self._batch(value, key) if is_batch else [self._task(value, key, "")]
        if idempotency_key is None:
            return Prepared(tasks)
        return Prepared(tasks, Idempotency.of(idempotency_key, canonical_bytes(value)))

    def _batch(self, value: Mapping[str, object], key: VirtualKey) -> list[NewTask]:
        try:
            batch = BatchBody.model_validate(value)
        except ValidationError as error:
            raise first_problem(error, at="") from None
        return [self._task(task, key, f"tasks[{place}]") for place, task in enumerate(batch.tasks)]

    def _task(self, value: object, key: VirtualKey, at: str) -> NewTask:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{at}: must be a JSON object", field=at)
        prefix = f"{at}." if at else ""
        try:
            body = NewTaskBody.model_validate(value)
        except ValidationError as error:
            raise first_problem(error, at=at) from None
        if body.type not in self._types:
            raise _prefixed(self._unknown_type(body.type), prefix)
        spec = self._types.get(body.type)
        input = validate_input(spec, body.input, at=f"{prefix}input")
        try:
            check_allowed(key, spec.name, named_model(input))
            self._check_model(input)
            return build(spec, input, owner=key.key_id, options=_options(body))
        except InvalidRequest as error:
            raise _prefixed(error, prefix) from None

    def _unknown_type(self, name: str) -> UnknownTaskType:
        known = ", ".join(sorted(spec.name for spec in self._types))
        return UnknownTaskType(f"type: {name[:60]!r} is unknown; this server knows: {known}", field="type")

    async def _check_queues(self, tasks: list[NewTask], *, is_batch: bool) -> None:
        """Unknown names are looked up once; queues are never deleted."""
        for place, task in enumerate(tasks):
            if task.queue in self._queues:
                continue
            name = task.queue
            try:
                await self._threads.run(partial(self._tasks.check_queue, name), failure="nothing was accepted")
            except UnknownQueue as error:
                raise _prefixed(error, f"tasks[{place}]." if is_batch else "") from None
            if len(self._queues) < _KNOWN_QUEUES:
                self._queues.add(name)


def _options(body: NewTaskBody) -> TaskOptions:
    return TaskOptions(
        queue=DEFAULT_QUEUE if body.queue is None else body.queue,
        priority=DEFAULT_PRIORITY if body.priority is None else body.priority,
        run_at=None if body.run_at is None else _instant(body.run_at),
        max_attempts=body.max_attempts,
        deadline=None if body.deadline_s is None else timedelta(seconds=body.deadline_s),
        metadata=body.metadata,
    )


def _instant(text: str) -> datetime | None:
    """RFC 3339; None for a time that has passed, which means at once."""
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "run_at: must be a time of RFC 3339 with a zone, e.g. 2026-01-31T12:00:00Z", field="run_at"
        ) from None
    return instant if instant > datetime.now(UTC) else None


def _prefixed(error: InvalidRequest, prefix: str) -> InvalidRequest:
    """The same error with its field where it stands in the request: `tasks[3].queue`."""
    if not prefix or error.field is None:
        return error
    message = str(error)
    return type(error)(prefix + message if message.startswith(error.field) else message, field=prefix + error.field)
