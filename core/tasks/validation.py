"""
From what a producer says to a `NewTask`: everything that can be wrong is told here, with the field's name.

What passes can be stored and handed back: no NUL, no lone surrogate, no NaN, nothing nested over 32 deep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from core.errors import InvalidRequest
from core.ids import KeyId, PublicId, new_public_id, new_task_id
from core.task_types.spec import TaskInput, TaskSpec
from core.tasks.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, NewTask

MAX_DEPTH = 32
MAX_METADATA_BYTES = 16 * 1024
MAX_DEADLINE = timedelta(days=7)
MAX_DELAY = timedelta(days=366)
MAX_ATTEMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Everything about a task but its type, input and owner; None means the type's default."""

    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    run_at: datetime | None = None
    max_attempts: int | None = None
    deadline: timedelta | None = None
    metadata: Mapping[str, Any] | None = None
    retry_of: PublicId | None = None


DEFAULT_OPTIONS = TaskOptions()


def build(spec: TaskSpec, input: TaskInput, *, owner: KeyId, options: TaskOptions = DEFAULT_OPTIONS) -> NewTask:
    """
    Args:
        input: already validated by its model.

    Raises:
        InvalidRequest: an option is out of bounds, or a text cannot be stored.
    """
    try:
        value = input.model_dump(mode="json", exclude_unset=True)
    except PydanticSerializationError as error:
        raise InvalidRequest(f"input: not JSON: {error}", field="input") from None
    return build_raw(spec, canonical(value, field="input"), owner=owner, options=options)


def build_raw(spec: TaskSpec, input_json: str, *, owner: KeyId, options: TaskOptions = DEFAULT_OPTIONS) -> NewTask:
    """As `build`, for an input that is canonical JSON of a valid model already."""
    _check_options(options)
    metadata_json = "{}"
    if options.metadata:
        metadata_json = canonical(options.metadata, field="metadata")
        if len(metadata_json) > MAX_METADATA_BYTES:
            raise InvalidRequest(f"metadata is over {MAX_METADATA_BYTES} bytes of JSON", field="metadata")
    return NewTask(
        id=new_task_id(),
        public_id=new_public_id(),
        owner_id=owner,
        type=spec.name,
        input_json=input_json,
        queue=options.queue,
        priority=options.priority,
        run_at=options.run_at,
        max_attempts=spec.max_attempts if options.max_attempts is None else options.max_attempts,
        deadline=spec.deadline if options.deadline is None else options.deadline,
        metadata_json=metadata_json,
        retry_of=options.retry_of,
    )


def validate_input(spec: TaskSpec, value: object, *, at: str = "input") -> TaskInput:
    """
    The input's model from parsed JSON.

    Args:
        at: where the input stands in the request, for the error's field.

    Raises:
        InvalidRequest: names the first bad field, e.g. `input.messages[0].role`.
    """
    try:
        return spec.input.model_validate(value)
    except ValidationError as error:
        raise first_problem(error, at=at) from None


def first_problem(error: ValidationError, *, at: str) -> InvalidRequest:
    """The first of pydantic's findings as ours, without the offending value (it may be a prompt)."""
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = at
    for part in found["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    return InvalidRequest(f"{field}: {found['msg']}", field=field)


def canonical(value: object, *, field: str) -> str:
    """
    Compact JSON text that PostgreSQL can store and any client can parse.

    Raises:
        InvalidRequest: NUL, lone surrogate, NaN, or nested too deep.
    """
    check_storable(value, field=field)
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise InvalidRequest(f"{field}: not JSON: {error}", field=field) from None


def check_storable(value: object, *, field: str, depth: int = 0) -> None:
    """
    Raises:
        InvalidRequest: names the place of the first value that cannot be stored.
    """
    if isinstance(value, str):
        if "\x00" in value:
            raise InvalidRequest(f"{field}: the NUL character cannot be stored", field=field)
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise InvalidRequest(f"{field}: a lone surrogate is not valid Unicode", field=field)
    elif isinstance(value, Mapping):
        _check_depth(depth, field)
        for key, inner in cast(Mapping[object, object], value).items():
            check_storable(key, field=field, depth=depth + 1)
            check_storable(inner, field=f"{field}.{key}", depth=depth + 1)
    elif isinstance(value, list | tuple):
        _check_depth(depth, field)
        for place, inner in enumerate(cast(Sequence[object], value)):
            check_storable(inner, field=f"{field}[{place}]", depth=depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{field}: NaN and infinity are not JSON", field=field)


def _check_depth(depth: int, field: str) -> None:
    if depth >= MAX_DEPTH:
        raise InvalidRequest(f"{field}: nested deeper than {MAX_DEPTH} levels", field=field)


def _check_options(options: TaskOptions) -> None:
    if not 0 <= options.priority <= 9:
        raise InvalidRequest("priority must be between 0 and 9; higher runs first", field="priority")
    if options.max_attempts is not None and not 1 <= options.max_attempts <= MAX_ATTEMPTS:
        raise InvalidRequest(f"max_attempts must be between 1 and {MAX_ATTEMPTS}", field="max_attempts")
    if options.deadline is not None and not timedelta(seconds=1) <= options.deadline <= MAX_DEADLINE:
        raise InvalidRequest(
            f"deadline_s must be between 1 and {int(MAX_DEADLINE.total_seconds())} seconds", field="deadline_s"
        )
    if options.run_at is not None:
        if options.run_at.tzinfo is None:
            raise InvalidRequest("run_at must carry a time zone, e.g. 2026-01-31T12:00:00Z", field="run_at")
        if options.run_at > datetime.now(UTC) + MAX_DELAY:
            raise InvalidRequest(f"run_at is more than {MAX_DELAY.days} days ahead", field="run_at")
