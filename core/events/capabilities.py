"""
What happens to the capabilities, told to every process on the channel `{instance}events:capabilities`.

At most once, for speed: who must not miss a change compares with the tables (core/capabilities/directory.py does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

TOPIC = "capabilities"


def channel(instance: str) -> str:
    return f"{instance}events:{TOPIC}"


@dataclass(frozen=True, slots=True)
class ModelCapabilitiesDiscovered:
    """
    A provider told what it serves, and that is committed.

    Args:
        version: of the list, microseconds since 1970 of `discovered_at`; a list with a lower one is older.
        models: how many there are.
        before: version of the list that `changed` and `gone` make the new one of; None: they are not told.
        changed: models as in the copy in Redis, new ones and those of which something else is known now.
        gone: ids.
    """

    provider: str
    version: int
    discovered_at: datetime
    models: int
    before: int | None = None
    changed: Sequence[Mapping[str, object]] = ()
    gone: Sequence[str] = ()

    def to_json(self) -> bytes:
        """`{"event": "ModelCapabilitiesDiscovered", "provider": "openai", "version": 1..., "models": 80, ...}`"""
        return _dumped(self)


@dataclass(frozen=True, slots=True)
class CapabilityOverridden:
    """An operator said what a model can do, or took it back."""

    provider: str
    model: str
    ability: str

    def to_json(self) -> bytes:
        """`{"event": "CapabilityOverridden", "provider": "", "model": "gpt-5", "ability": "vision"}`"""
        return _dumped(self)


CapabilityEvent = ModelCapabilitiesDiscovered | CapabilityOverridden


def _dumped(event: CapabilityEvent) -> bytes:
    members = {name: getattr(event, name) for name in event.__slots__}
    return orjson.dumps({"event": type(event).__name__, **members}, option=orjson.OPT_UTC_Z)
