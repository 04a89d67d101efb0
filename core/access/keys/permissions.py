"""What a virtual key allows: pure decisions, for the door, the Python client and schedules alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from core.access.keys.model import VirtualKey, allows
from core.errors import KeyRefused, ModelNotAllowed, TypeNotAllowed

TYPE_FIELD = "type"
MODEL_FIELD = "input.model"
_SHOWN = 10


def named_model(input: object) -> str | None:
    """
    The model that a task's input names, whatever its type: a text called `model`.

    Args:
        input: a TaskInput, or its JSON object.
    """
    if isinstance(input, Mapping):
        value = cast("Mapping[str, object]", input).get("model")
    else:
        value = getattr(input, "model", None)
    return value if isinstance(value, str) else None


def check_allowed(key: VirtualKey, task_type: str, model: str | None) -> None:
    """
    Args:
        model: None: the task names none; then its type alone decides.

    Raises:
        TypeNotAllowed: `field` is `type`.
        ModelNotAllowed: `field` is `input.model`.
    """
    check_lists(key.allowed_types, key.allowed_models, task_type, model)


def check_lists(types: tuple[str, ...], models: tuple[str, ...], task_type: str, model: str | None) -> None:
    """As `check_allowed`, for a key's two lists."""
    if not allows(types, task_type):
        raise TypeNotAllowed(
            f"type: this key may not use {task_type[:60]!r}; it is for {_named(types)}", field=TYPE_FIELD
        )
    if model is not None and not allows(models, model):
        raise ModelNotAllowed(
            f"input.model: this key may not use {model[:60]!r}; it is for {_named(models)}", field=MODEL_FIELD
        )


def check_usable(key: VirtualKey, now: datetime) -> None:
    """
    Raises:
        KeyRefused: it is disabled or has expired; `field` is `owner`.
    """
    if not key.is_enabled:
        raise KeyRefused(f"owner: key {key.key_id} is disabled; `headrace keys enable` lets it in again", field="owner")
    if key.has_expired(now):
        raise KeyRefused(f"owner: key {key.key_id} has expired; `headrace keys update` moves that", field="owner")


def _named(patterns: Sequence[str]) -> str:
    """So many that a message stays short."""
    shown = ", ".join(patterns[:_SHOWN])
    return shown if len(patterns) <= _SHOWN else f"{shown} and {len(patterns) - _SHOWN} more"
