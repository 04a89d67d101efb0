"""What a task's input asks of its model. Pure; only called when something about the model is known to be impossible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from core.capabilities.model import Ability
from core.task_types.chat_completion import ChatCompletion
from core.task_types.embedding import Embedding
from core.task_types.image_generation import ImageGeneration
from core.task_types.provider_input import ProviderInput
from core.task_types.spec import TaskInput
from core.task_types.video_generation import VideoGeneration

_ENDPOINTS: Mapping[type[TaskInput], Ability] = {
    ChatCompletion: Ability.CHAT,
    Embedding: Ability.EMBEDDINGS,
    ImageGeneration: Ability.IMAGES,
    VideoGeneration: Ability.VIDEO,
}
_PARTS = {"image_url": Ability.VISION, "input_image": Ability.VISION, "input_audio": Ability.AUDIO}


def model_of(input: TaskInput) -> str | None:
    """The model it names; None: none, or it is not for a provider."""
    if not isinstance(input, ProviderInput):
        return None
    model: object = getattr(input, "model", None)
    return model if isinstance(model, str) else None


def needs(input: TaskInput) -> Iterator[Ability]:
    """The abilities without which the task cannot be done, the endpoint's first."""
    endpoint = _ENDPOINTS.get(type(input))
    if endpoint is not None:
        yield endpoint
    if isinstance(input, ChatCompletion):
        if input.tools or input.functions:
            yield Ability.TOOLS
        if input.audio or "audio" in (input.modalities or ()):
            yield Ability.AUDIO
        for message in input.messages:
            yield from _of_parts(message.get("content"))


def _of_parts(content: object) -> Iterator[Ability]:
    for part in cast("list[object]", content) if isinstance(content, list) else ():
        kind = cast("Mapping[str, object]", part).get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in _PARTS:
            yield _PARTS[kind]
