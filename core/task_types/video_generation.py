"""`video.generation`: POST /videos, then GET /videos/{id}. Source: OpenAI API reference, "Create video"."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from core.task_types.provider_input import JsonObject, NonEmpty, ProviderInput, Says
from core.task_types.spec import TaskSpec


class VideoGeneration(ProviderInput):
    """
    The request body of a video generation, as JSON.

    `input_reference` names an uploaded file or an image URL: `{"file_id": "..."}`; bytes cannot be sent with a task.
    """

    task_type: ClassVar[str] = "video.generation"

    prompt: NonEmpty
    model: NonEmpty | None = None
    input_reference: JsonObject | None = None
    seconds: Annotated[str | int | None, Says("must be text or a whole number of seconds")] = None
    size: str | None = None


SPEC = TaskSpec(
    name=VideoGeneration.task_type,
    input=VideoGeneration,
    handler="workers.handlers.video_generation:handle",
    deadline=timedelta(hours=1),
)
