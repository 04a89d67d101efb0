"""
What of a provider's own words may reach errors and logs: no key, no prompt, no more than a line (law 12).

A provider may echo the request in its error message. Every run of characters that also stands in the request is
masked, so a message keeps what the provider said and loses what the caller said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

Filter = Callable[[str], str]

LONGEST = 300
SHORTEST_SECRET = 4  # characters: a shorter one protects nothing, and would be cut out of ordinary words
RUN = 8  # characters: shorter runs are ordinary words in both texts
MASK = "[...]"
CHOICES = frozenset(
    {
        "model",
        "role",
        "type",
        "size",
        "quality",
        "style",
        "background",
        "moderation",
        "complexity",
        "seconds",
        "output_format",
        "response_format",
        "encoding_format",
        "service_tier",
        "reasoning_effort",
        "verbosity",
    }
)
"""Members that hold a choice and not the caller's words; an error may name their value."""

_KEYS = re.compile(
    r"(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"  # an Authorization value
    r"|\b(?:sk|pk|rk|hr|api|key|gsk|xai|AIza)[-_][A-Za-z0-9_*.-]{6,}"  # keys by their prefix, also half masked ones
    r"|\bAIza[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+"  # JSON web tokens
    r"|(?<=://)[^/\s@]+@"  # user and password of a URL
)
_BLANK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\s]+")
_WORD = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")


def filter_for(body: Mapping[str, object] | None, *, secrets: Sequence[str]) -> Filter:
    """
    The filter for the answer to one request.

    Args:
        body: what was sent; None: nothing.
        secrets: texts that never pass, whatever they look like.
    """

    def filtered(text: str) -> str:
        text = _BLANK.sub(" ", text[: 4 * LONGEST]).strip()
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, MASK)
        text = _KEYS.sub(MASK, text)
        if len(text) > LONGEST:
            text = text[: LONGEST - 1] + "\u2026"
        return _without_echo(text, list(_texts(body)))

    return filtered


def word(value: object) -> str | None:
    """A provider's error code, when it is one word of harmless characters."""
    return value if isinstance(value, str) and _WORD.match(value) and not _KEYS.search(value) else None


def _texts(value: object) -> Iterator[str]:
    """Every text the caller wrote, with blanks as the message's are."""
    if isinstance(value, str):
        yield _BLANK.sub(" ", value).strip()
    elif isinstance(value, Mapping):
        for name, member in cast("Mapping[str, object]", value).items():
            if not (name in CHOICES and isinstance(member, str)):
                yield from _texts(member)
    elif isinstance(value, list):
        for member in cast("list[object]", value):
            yield from _texts(member)


def _without_echo(text: str, sent: list[str]) -> str:
    haystack = "\n".join(sent)
    hidden = [False] * len(text)
    for start in range(len(text) - RUN + 1):
        if text[start : start + RUN] in haystack:
            hidden[start : start + RUN] = [True] * RUN
    for short in {entry for entry in sent if 4 <= len(entry) < RUN}:  # under 4 it would mask every "a"
        for found in re.finditer(rf"(?<!\w){re.escape(short)}(?!\w)", text):
            hidden[found.start() : found.end()] = [True] * len(short)
    out: list[str] = []
    for letter, is_hidden in zip(text, hidden, strict=True):
        if not is_hidden:
            out.append(letter)
        elif not out or out[-1] != MASK:
            out.append(MASK)
    return "".join(out)
