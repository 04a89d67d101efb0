"""
What a new list of a provider changes, small enough for a message: a process that has the list before makes the new one
from it, without reading ten thousand models to learn of one. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from core.capabilities.model import LazyModels, ListedModel, ModelList, version_of
from core.events.capabilities import ModelCapabilitiesDiscovered

MOST = 100
"""Models in a message: some tens of kilobytes. With more the copy is read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """
    Args:
        before: version of the list it is applied to.
        discovered_at: of the new list.
    """

    provider: str
    before: int
    discovered_at: datetime
    changed: Sequence[ListedModel]
    gone: Sequence[str]

    @classmethod
    def between(cls, old: ModelList, new: ModelList) -> Difference | None:
        """None: it is too much for a message."""
        changed = [model for model in new.models.values() if old.models.get(model.id) != model]
        gone = [name for name in old.models if name not in new.models]
        if len(changed) + len(gone) > MOST:
            return None
        return cls(new.provider, old.version, new.discovered_at, changed, gone)

    @classmethod
    def of_json(cls, text: bytes) -> Difference | None:
        """That of an announcement; None: it holds none, or is not ours."""
        try:
            told: dict[str, Any] = orjson.loads(text)
            if told["event"] != ModelCapabilitiesDiscovered.__name__ or told["before"] is None:
                return None
            changed = [ListedModel.of_document(model) for model in told["changed"]]
            at = datetime.fromisoformat(told["discovered_at"])
            return cls(str(told["provider"]), int(told["before"]), at, changed, [str(name) for name in told["gone"]])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # the reading that follows finds the same in the copy or the rows

    def leads_to(self, discovered_at: datetime, *, known: ModelList) -> bool:
        """Whether it makes the list of that moment from the one that is known."""
        return version_of(self.discovered_at) == version_of(discovered_at) and known.version == self.before

    def applied_to(self, known: ModelList) -> ModelList:
        models: Mapping[str, ListedModel] = LazyModels.changed(known.models, self.changed, self.gone)
        return ModelList(self.provider, self.discovered_at, models)

    def event(self, models: int) -> ModelCapabilitiesDiscovered:
        """Args: models: how many there are now."""
        return ModelCapabilitiesDiscovered(
            self.provider,
            version_of(self.discovered_at),
            self.discovered_at,
            models,
            before=self.before,
            changed=[model.to_document() for model in self.changed],
            gone=self.gone,
        )
