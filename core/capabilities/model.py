"""The words of capabilities: abilities, answers with their source, a provider's list of models. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

import orjson

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Ability(StrEnum):
    """What a model may be able to do."""

    CHAT = "chat"
    """Chat completions."""
    VISION = "vision"
    """Chat about images it is shown."""
    TOOLS = "tools"
    """Chat that calls tools."""
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    """Makes images."""
    VIDEO = "video"
    """Makes videos."""
    AUDIO = "audio"
    """Hears or speaks."""


class Answer(StrEnum):
    """Whether it can. There is no `no` without evidence: what nobody told is unknown."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Source(StrEnum):
    """Who said so; of two the first in the order of precedence counts."""

    OVERRIDE = "override"
    """The operator."""
    PROVIDER = "provider"
    """The provider's own description of the model."""
    GENAI_PRICES = "genai-prices"
    """The model has a price for it."""
    NAME = "name"
    """A family known by its name (core/capabilities/names.py)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer and who gave it."""

    answer: Answer
    source: Source


Findings = Mapping[Ability, Finding]
"""By ability; what is absent is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """
    A model as one provider serves it.

    Args:
        created: Unix time, as the provider says it.
        prices: as core/capabilities/prices.py describes it; None: unpriced.
    """

    id: str
    created: int | None = None
    owned_by: str | None = None
    findings: Findings
    context_tokens: int | None = None
    prices: Mapping[str, Any] | None = None

    def to_document(self) -> dict[str, object]:
        """As in the copy in Redis."""
        return {
            "id": self.id,
            "created": self.created,
            "owned_by": self.owned_by,
            "abilities": findings_document(self.findings),
            "context_tokens": self.context_tokens,
            "pricing": self.prices,
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> ListedModel:
        return cls(
            id=document["id"],
            created=document["created"],
            owned_by=document["owned_by"],
            findings=findings_of_json(orjson.dumps(document["abilities"])),
            context_tokens=document["context_tokens"],
            prices=document["pricing"],
        )


@dataclass(frozen=True, slots=True)
class ModelList:
    """A provider's newest good list."""

    provider: str
    discovered_at: datetime
    models: Mapping[str, ListedModel]

    @property
    def version(self) -> int:
        return version_of(self.discovered_at)

    def to_json(self) -> bytes:
        """`{"version": 1..., "provider": "openai", "discovered_at": "...", "models": [...]}`, the version first."""
        return orjson.dumps(
            {
                "version": self.version,
                "provider": self.provider,
                "discovered_at": self.discovered_at,
                "models": [model.to_document() for model in self.models.values()],
            },
            option=orjson.OPT_UTC_Z,
        )

    @classmethod
    def of_json(cls, text: bytes) -> ModelList:
        """Raises: ValueError, KeyError, TypeError: not one of ours."""
        document: dict[str, Any] = orjson.loads(text)
        models = LazyModels({entry["id"]: entry for entry in document["models"]})
        for model in models:
            models[model]  # one of them read now shows whether the others can be
            break
        discovered_at = _EPOCH + timedelta(microseconds=int(document["version"]))
        return cls(str(document["provider"]), discovered_at, models)


class LazyModels(Mapping[str, ListedModel]):
    """
    Models by id, each read from its document when it is first looked at: ten thousand read at once would keep a process
    from serving the new list for a tenth of a second.
    """

    def __init__(self, documents: Mapping[str, dict[str, Any]]) -> None:
        self._entries: dict[str, ListedModel | dict[str, Any]] = dict(documents)

    def __getitem__(self, name: str) -> ListedModel:
        entry = self._entries[name]
        if not isinstance(entry, ListedModel):
            entry = self._entries[name] = ListedModel.of_document(entry)
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def version_of(moment: datetime) -> int:
    """Microseconds since 1970, exactly: what PostgreSQL keeps of a time."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def findings_document(findings: Findings) -> dict[str, dict[str, str]]:
    """`{"chat": {"answer": "yes", "source": "name"}}`"""
    return {
        ability.value: {"answer": found.answer.value, "source": found.source.value}
        for ability, found in findings.items()
    }


@lru_cache(maxsize=4096)  # thousands of models share a few dozen of them
def findings_of_json(text: str | bytes) -> Findings:
    """The inverse of `findings_document`. Raises: ValueError, KeyError: not one of ours."""
    document: dict[str, dict[str, str]] = orjson.loads(text)
    return {
        Ability(ability): Finding(Answer(found["answer"]), Source(found["source"]))
        for ability, found in document.items()
    }
