"""
Reading a provider's answer to GET /models: each usable entry once, the rest counted.

An answer without one usable entry is a failed discovery: the last good list stays, because "serves nothing" is what a
provider says when something is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from core.providers.errors import ProviderFailure

MOST_MODELS = 20_000
LONGEST_ID = 200

Entry = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Listing:
    """
    Args:
        entries: the provider's model objects by id, sorted.
        skipped: how many were malformed, doubled or over the bound.
    """

    entries: Mapping[str, Entry]
    skipped: int


def read_listing(body: Mapping[str, object]) -> Listing:
    """
    Args:
        body: `{"data": [{"id": "gpt-5", ...}, ...]}`.

    Raises:
        ProviderFailure: there is no usable entry; retryable.
    """
    data = body.get("data")
    found = cast("list[object]", data) if isinstance(data, list) else []
    entries: dict[str, Entry] = {}
    for value in found:
        if not isinstance(value, Mapping):
            continue
        entry = cast("Entry", value)
        name = entry.get("id")
        if isinstance(name, str) and is_model_id(name) and len(entries) < MOST_MODELS:
            entries.setdefault(name, entry)
    if not entries:
        what = "lists no model" if not found else f"lists {len(found)} models, none of them usable"
        raise ProviderFailure(f"the provider {what}", code="provider_malformed", retryable=True)
    return Listing(dict(sorted(entries.items())), len(found) - len(entries))


def is_model_id(text: str) -> bool:
    """Printable without blanks: it stands in rows, URLs and headers."""
    return 0 < len(text) <= LONGEST_ID and text.isprintable() and not any(letter.isspace() for letter in text)


def whole(entry: Entry, *names: str) -> int | None:
    """The first of these members that is a whole number of a sensible size."""
    for name in names:
        value = entry.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
    return None
