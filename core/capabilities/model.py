"""The words of capabilities: abilities, answers with their source, a provider's list of models. No I/O."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
        """
        `{"version": 1..., "crc32": 2..., "provider": "openai", "discovered_at": "...", "models": [...]}`, in this
        order; the checksum is of all that follows its comma.
        """
        rest = orjson.dumps(
            {
                "provider": self.provider,
                "discovered_at": self.discovered_at,
                "models": [model.to_document() for model in self.models.values()],
            },
            option=orjson.OPT_UTC_Z,
        )[1:]
        return b'{"version":%d,"crc32":%d,%b' % (self.version, zlib.crc32(rest), rest)

    @classmethod
    def of_json(cls, text: bytes) -> ModelList:
        """Raises: ValueError, KeyError, TypeError: not one of ours."""
        cut = _cut(text)
        if cut is not None:
            return cut
        document: dict[str, Any] = orjson.loads(text)
        models = {entry["id"]: ListedModel.of_document(entry) for entry in document["models"]}
        discovered_at = _EPOCH + timedelta(microseconds=int(document["version"]))
        return cls(str(document["provider"]), discovered_at, models)


class LazyModels(Mapping[str, ListedModel]):
    """
    Models by id, each read from its JSON when it is first looked at: ten thousand read at once would keep a process
    from serving the new list for a tenth of a second.

    Args:
        texts: by id, each without the beginning that all have, and without the last brace.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self._entries: dict[str, ListedModel | str] = dict(texts)

    @classmethod
    def changed(
        cls, known: Mapping[str, ListedModel], changed: Sequence[ListedModel], gone: Sequence[str]
    ) -> LazyModels:
        """The known ones with some changed or new and some gone; what was not read yet stays so."""
        new = cls({})
        new._entries = dict(known._entries if isinstance(known, LazyModels) else known)
        new._entries.update((model.id, model) for model in changed)
        for name in gone:
            new._entries.pop(name, None)
        return new

    def __getitem__(self, name: str) -> ListedModel:
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = ListedModel.of_document(orjson.loads(f"{_BEGINS}{entry}}}"))
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


_BEGINS = '{"id":"'
_HEAD = re.compile(
    rb'\{"version":(\d+),"crc32":(\d+),(?="provider":"([^"]*)","discovered_at":"[^"]*","models":\[(?=\{))'
)


def _cut(text: bytes) -> ModelList | None:
    """
    The list with its models cut from the text, not read, which takes a tenth of the time; None: it must be read whole.

    The checksum says that `to_json` wrote it, and every quote inside a string of its has a backslash before it: without
    backslashes the beginning of a model is found nowhere but there.
    """
    head = _HEAD.match(text)
    if head is None or b"\\" in text or zlib.crc32(memoryview(text)[head.end() :]) != int(head[2]):
        return None
    start = text.index(b"[", head.end()) + 1 + len(_BEGINS)
    parts = text[start : -len(b"}]}")].decode().split("}," + _BEGINS)
    models = LazyModels({part[: part.index('"')]: part for part in parts})
    return ModelList(head[3].decode(), _EPOCH + timedelta(microseconds=int(head[1])), models)


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
