"""
What happens to the providers of this deployment, told to every process on the channel `{instance}events:providers`.

At most once, for speed: who must not miss a change compares versions in the table (core/providers/roster.py does).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson

TOPIC = "providers"


def channel(instance: str) -> str:
    return f"{instance}events:{TOPIC}"


@dataclass(frozen=True, slots=True)
class ProviderChanged:
    """
    A provider was added, changed, enabled or disabled, or removed.

    Args:
        version: of its row; 0: it was removed.
    """

    name: str
    version: int

    def to_json(self) -> bytes:
        """`{"name": "openai", "version": 3}`"""
        return orjson.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: bytes) -> ProviderChanged:
        """Raises: ValueError, KeyError: not one of ours."""
        value: dict[str, Any] = orjson.loads(text)
        return cls(str(value["name"]), int(value["version"]))
