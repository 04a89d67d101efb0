"""
The task that a schedule enqueues: checked whole when the schedule is saved, and again at each fire.

Shape: `{"type": "chat.completion", "input": {...}, "queue": "default", "priority": 5, "max_attempts": 3,
"deadline_s": 600, "metadata": {...}}`; all but type and input may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import InvalidRequest
from core.ids import KeyId
from core.task_types.spec import TaskInput, TaskTypes
from core.tasks.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, NewTask
from core.tasks.validation import TaskOptions, build, canonical, first_problem, validate_input

FIELD = "task"


class TaskTemplate(BaseModel):
    """What enters; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    type: str
    input: dict[str, Any]
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    max_attempts: int | None = None
    deadline_s: float | None = None
    metadata: dict[str, Any] | None = None


def read(value: Mapping[str, Any]) -> TaskTemplate:
    """
    Raises:
        InvalidRequest: names the field, e.g. `task.priority`.
    """
    canonical(value, field=FIELD)
    try:
        return TaskTemplate.model_validate(dict(value))
    except ValidationError as error:
        raise first_problem(error, at=FIELD) from None


def new_task(
    template: TaskTemplate, types: TaskTypes, *, owner: KeyId, check_model: Callable[[TaskInput], None]
) -> NewTask:
    """
    A task ready to be accepted; its queue and owner are the caller's to check.

    Args:
        check_model: refuses what the input's model is known not to do.

    Raises:
        InvalidRequest: the type is unknown, refuses the input, or an option is out of bounds, or its model is known
            not to do it; `task.` before the field.
    """
    try:
        spec = types.get(template.type)
        options = TaskOptions(
            queue=template.queue,
            priority=template.priority,
            max_attempts=template.max_attempts,
            deadline=None if template.deadline_s is None else timedelta(seconds=template.deadline_s),
            metadata=template.metadata,
        )
        input = validate_input(spec, template.input)
        check_model(input)
        return build(spec, input, owner=owner, options=options)
    except OverflowError:
        raise InvalidRequest("deadline_s is out of bounds", field=f"{FIELD}.deadline_s") from None
    except InvalidRequest as error:
        raise within_task(error) from error


def within_task(error: InvalidRequest) -> InvalidRequest:
    """The same error with its field seen from outside the template."""
    error.field = FIELD if error.field is None else f"{FIELD}.{error.field}"
    return error
