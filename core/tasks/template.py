"""
A task that will be made later, once or each time a schedule fires: checked when it is written down, built when due.

The JSON text of a template is what a producer would send to `/v1/tasks`, without `run_at`:
`{"type": "chat.completion", "input": {"model": "m", "messages": [...]}, "queue": "nightly"}`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import InvalidRequest, UnknownTaskType
from core.ids import KeyId
from core.task_types.spec import TaskTypes
from core.tasks.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, NewTask
from core.tasks.validation import (
    MAX_ATTEMPTS,
    MAX_DEADLINE,
    TaskOptions,
    build,
    canonical,
    first_problem,
    validate_input,
)

_NOBODY = KeyId("")

Name = Annotated[str, Field(min_length=1, max_length=100)]


class TaskTemplate(BaseModel):
    """Null is the same as absent for all that is optional."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    type: Name = Field(description="A task type of this server.")
    input: dict[str, object] = Field(description="What the type wants.")
    queue: Name | None = Field(default=None, description=f"An existing queue; `{DEFAULT_QUEUE}` when absent.")
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(
        default=None, description=f"Higher runs first; {DEFAULT_PRIORITY} when absent."
    )
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="Failures allowed, the first try included; the type's own number when absent."
    )
    deadline_s: Annotated[float, Field(ge=1, le=MAX_DEADLINE.total_seconds())] | None = Field(
        default=None, description="Seconds from acceptance to a final state; the type's own when absent."
    )
    metadata: dict[str, object] | None = Field(
        default=None, description="A JSON object, handed back unchanged; at most 16 KiB."
    )

    @property
    def queue_name(self) -> str:
        return DEFAULT_QUEUE if self.queue is None else self.queue

    def to_json(self) -> str:
        return canonical(self.model_dump(mode="json", exclude_none=True), field="task")

    @classmethod
    def from_json(cls, text: str) -> TaskTemplate:
        """
        Raises:
            InvalidRequest: not a template (of this release).
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise first_problem(error, at="task") from None

    def build(self, types: TaskTypes, *, owner: KeyId) -> NewTask:
        """
        A new task, with ids of its own.

        Raises:
            InvalidRequest: the type is not known (any more), or refuses the input (`task.input.messages`).
        """
        if self.type not in types:
            known = ", ".join(sorted(spec.name for spec in types))
            raise UnknownTaskType(
                f"task.type: {self.type[:60]!r} is unknown; this server knows: {known}", field="task.type"
            )
        spec = types.get(self.type)
        input = validate_input(spec, self.input, at="task.input")
        try:
            return build(spec, input, owner=owner, options=self._options())
        except InvalidRequest as error:
            raise InvalidRequest(f"task.{error}", field=f"task.{error.field}") from None

    def check(self, types: TaskTypes) -> None:
        """
        Raises:
            InvalidRequest: it could not be built now; names the field. The queue is not looked up.
        """
        self.build(types, owner=_NOBODY)

    def _options(self) -> TaskOptions:
        return TaskOptions(
            queue=self.queue_name,
            priority=DEFAULT_PRIORITY if self.priority is None else self.priority,
            max_attempts=self.max_attempts,
            deadline=None if self.deadline_s is None else timedelta(seconds=self.deadline_s),
            metadata=self.metadata,
        )
