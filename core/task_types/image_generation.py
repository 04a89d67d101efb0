"""`image.generation`: POST /images/generations. Source: OpenAI API reference, "Create image"."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from core.task_types.provider_input import JsonObject, NonEmpty, ProviderInput
from core.task_types.spec import TaskSpec


class ImageGeneration(ProviderInput):
    """The request body of an image generation, without partial images (they are streamed)."""

    task_type: ClassVar[str] = "image.generation"

    prompt: NonEmpty
    model: NonEmpty | None = None
    background: str | None = None
    complexity: str | None = None
    frame_count: Annotated[int, Field(ge=1)] | None = None
    frame_duration_ms: Annotated[int, Field(ge=0)] | None = None
    moderation: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    output_format: str | None = None
    quality: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    safety_identifier: str | None = None
    size: str | None = None
    style: str | None = None
    svg: JsonObject | None = None
    user: str | None = None


SPEC = TaskSpec(
    name=ImageGeneration.task_type, input=ImageGeneration, handler="workers.handlers.image_generation:handle"
)
