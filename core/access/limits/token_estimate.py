"""
How many tokens a task will take, guessed when it is accepted; real usage corrects the guess when it is done.

Four characters a token is the rule of thumb for English text; the answer counts by its bound, or 256 without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from core.access.limits.model import LARGEST

CHARACTERS_PER_TOKEN = 4
ANSWER_TOKENS = 256  # of a chat without a bound: a short answer; settling takes what it was more
_DEEPEST = 8  # parts inside messages lie two levels deep


def estimate(task_type: str, body: Mapping[str, Any]) -> int:
    """
    Tokens; 0 for images, videos and types of your own, which may still settle with more.

    Args:
        body: the validated input, as JSON.
    """
    match task_type:
        case "chat.completion":
            answer = body.get("max_completion_tokens") or body.get("max_tokens") or ANSWER_TOKENS
            choices = body.get("n") or 1
            return min(LARGEST, _tokens(_characters(body.get("messages"))) + int(answer) * int(choices))
        case "embedding":
            return _embedding(body.get("input"))
        case _:
            return 0


def _embedding(given: object) -> int:
    """Text, texts, tokens, or lists of tokens: tokens count as what they are."""
    if isinstance(given, str):
        return _tokens(len(given))
    if not isinstance(given, Sequence):
        return 0
    members = cast("Sequence[object]", given)
    if all(isinstance(member, int) for member in members):
        return len(members)
    return sum(_embedding(member) for member in members)


def _characters(value: object, depth: int = 0) -> int:
    """
    Of all texts in a message, but not of media written into it: what those cost their length does not tell.
    """
    if isinstance(value, str):
        return 0 if value.startswith("data:") else len(value)
    if depth > _DEEPEST:
        return 0
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return sum(_characters(m, depth + 1) for name, m in members.items() if name not in ("role", "type", "data"))
    if isinstance(value, Sequence):
        return sum(_characters(member, depth + 1) for member in cast("Sequence[object]", value))
    return 0


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)
