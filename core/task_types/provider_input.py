"""
What the inputs of all provider endpoints share: the request body with our `extra` beside it.

Fields that every OpenAI-compatible server understands alike are typed and checked when the task is accepted; open sets
(models, sizes, qualities) stay text, because each server has its own. `stream` is not offered: a task has one result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, JsonValue, field_validator
from pydantic_core import CoreSchema, core_schema

from core.task_types.spec import TaskInput

NOT_OFFERED = frozenset({"stream", "stream_options"})

JsonObject = dict[str, JsonValue]
NonEmpty = Annotated[str, Field(min_length=1)]
Metadata = dict[str, str]


@dataclass(frozen=True, slots=True)
class Says:
    """Annotation: one error at the field itself, instead of one for each member of its union."""

    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="wrong_type", custom_error_message=self.message
        )


class ProviderInput(TaskInput):
    """
    The body of one request to the provider.

    `extra` holds parameters only this provider knows, e.g. `{"top_k": 40}`; they are sent beside the others. It cannot
    name a parameter that has a field of its own, since that would go round the field's checks.
    """

    max_body_fields: ClassVar[int] = 100

    extra: JsonObject = Field(default_factory=dict)

    @field_validator("extra")
    @classmethod
    def _extra_is_extra(cls, extra: JsonObject) -> JsonObject:
        if len(extra) > cls.max_body_fields:
            raise ValueError(f"at most {cls.max_body_fields} extra parameters")
        for name in extra:
            if name in NOT_OFFERED:
                raise ValueError(f"{name!r} is not offered: a task has one result")
            if name in cls.model_fields:
                raise ValueError(f"{name!r} has a field of its own; set `input.{name}`")
        return extra

    def body(self) -> JsonObject:
        """What is sent: the fields that were given (a null top-level field means absent), and `extra`."""
        given: JsonObject = {
            name: value
            for name in type(self).model_fields  # in their order: the same task sends the same bytes each time
            if name != "extra" and name in self.model_fields_set and (value := getattr(self, name)) is not None
        }
        return {**given, **self.extra}
