"""
What a provider's own model object tells, in the dialects that are in use. Pure.

OpenAI itself tells nothing. Gateways in OpenRouter's dialect tell modalities and parameters; Mistral and others a
`capabilities` object of booleans; Headrace the answers of its own `GET /v1/models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from core.capabilities.listing import Entry, whole
from core.capabilities.model import Ability, Answer, Finding, Findings, Source

_FLAGS = {
    "completion_chat": Ability.CHAT,
    "chat": Ability.CHAT,
    "chat_completion": Ability.CHAT,
    "function_calling": Ability.TOOLS,
    "tools": Ability.TOOLS,
    "vision": Ability.VISION,
    "embeddings": Ability.EMBEDDINGS,
    "embedding": Ability.EMBEDDINGS,
    "images": Ability.IMAGES,
    "image_generation": Ability.IMAGES,
    "video": Ability.VIDEO,
    "video_generation": Ability.VIDEO,
    "audio": Ability.AUDIO,
}
"""Members of `capabilities` whose boolean is about one of ours."""

_ANSWERS = {True: Answer.YES, False: Answer.NO, "yes": Answer.YES, "no": Answer.NO}


def findings_told(entry: Entry) -> Findings:
    """What the entry says about abilities; what it does not mention is absent."""
    return {**_by_modalities(entry), **_by_flags(entry)}


def context_told(entry: Entry) -> int | None:
    """The context size in tokens, under the names that servers give it."""
    return whole(entry, "context_length", "context_window", "context_tokens", "max_context_length", "max_model_len")


def _by_flags(entry: Entry) -> dict[Ability, Finding]:
    found: dict[Ability, Finding] = {}
    for name, value in _members(entry.get("capabilities")).items():
        told = _members(cast("object", value)).get("answer") if isinstance(value, Mapping) else value
        if name in _FLAGS and isinstance(told, bool | str) and told in _ANSWERS:
            found[_FLAGS[name]] = Finding(_ANSWERS[told], Source.PROVIDER)
    return found


def _by_modalities(entry: Entry) -> dict[Ability, Finding]:
    architecture = _members(entry.get("architecture"))
    given, made = _words(architecture.get("input_modalities")), _words(architecture.get("output_modalities"))
    if not given or not made:
        return {}
    answers = {
        Ability.CHAT: "text" in made,
        Ability.VISION: "text" in made and "image" in given,
        Ability.EMBEDDINGS: bool({"embeddings", "embedding"} & made),
        Ability.IMAGES: "image" in made,
        Ability.VIDEO: "video" in made,
        Ability.AUDIO: "audio" in given | made,
    }
    parameters = _words(entry.get("supported_parameters"))
    if parameters:
        answers[Ability.TOOLS] = "tools" in parameters
    return {ability: Finding(_ANSWERS[answer], Source.PROVIDER) for ability, answer in answers.items()}


def _members(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _words(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        return frozenset()
    return frozenset(word for word in cast("list[object]", value) if isinstance(word, str))
