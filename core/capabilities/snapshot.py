"""
Everything known about models at one moment, immutable: who serves what, and whether it can do something. No I/O.

A model's answer is that of all enabled providers that serve it: yes when one can, no when none of them can, else
unknown. Which providers serve a model is decided as in core/providers/routing.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.capabilities.model import Ability, Answer, ListedModel, ModelList, Source
from core.capabilities.overrides import EVERY_PROVIDER, Override
from core.capabilities.store import Discovery
from core.providers.model import ProviderRow

_SAID_BY = {
    Source.OVERRIDE: "the operator said so",
    Source.PROVIDER: "its provider says so",
    Source.GENAI_PRICES: "the price table says so",
    Source.NAME: "known by its name",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, who gave it, and since when it was true; no source: nobody said anything."""

    answer: Answer
    source: Source | None
    as_of: datetime | None


Judgement = Mapping[Ability, Judged]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Args:
        providers: all, in the order in which they are asked.
        discoveries: by provider; one that was never asked is absent.
        lists: the good lists, by provider.
        overrides: by (provider, model), then ability.
        read_at: the database's time of the reading.
        began: the same by this process's monotonic clock.
    """

    providers: Sequence[ProviderRow]
    discoveries: Mapping[str, Discovery]
    lists: Mapping[str, ModelList]
    overrides: Mapping[tuple[str, str], Mapping[Ability, Override]]
    read_at: datetime
    began: float
    clock: Callable[[], float] = time.monotonic
    _refusals: dict[str, Mapping[Ability, str]] = field(default_factory=dict[str, Mapping[Ability, str]])
    _judged: dict[tuple[object, ...], Judgement] = field(default_factory=dict[tuple[object, ...], Judgement])

    @property
    def now(self) -> datetime:
        """The database's clock, as far as this process can tell without asking."""
        return self.read_at + timedelta(seconds=self.clock() - self.began)

    def models(self) -> Iterator[tuple[str, Sequence[tuple[ProviderRow, ListedModel]]]]:
        """What the enabled providers list and may be asked for, by id, each with who lists it."""
        found: dict[str, list[tuple[ProviderRow, ListedModel]]] = {}
        for row in self._enabled():
            known = self.lists.get(row.name)
            for name, model in known.models.items() if known else ():
                if row.allows(name):
                    found.setdefault(name, []).append((row, model))
        for name in sorted(found):
            yield name, found[name]

    def listed(self, name: str) -> Sequence[tuple[ProviderRow, ListedModel]]:
        """The same for one model; empty: nobody lists it."""
        found: list[tuple[ProviderRow, ListedModel]] = []
        for row in self._enabled():
            model = self._model(row, name)
            if model is not None and row.allows(name):
                found.append((row, model))
        return found

    def judge(self, name: str, ability: Ability) -> Judged:
        """Whether the model can, over all providers that serve it."""
        return self.judgement(name)[ability]

    def judgement(self, name: str) -> Judgement:
        """The same for each ability. Models that nobody overrides share a few dozen of them."""
        serving = self._serving(name)
        if self.overrides and any((at, name) in self.overrides for at in (EVERY_PROVIDER, *(r.name for r in serving))):
            return self._judgement(name, serving)
        # Findings are shared, and live as long as this snapshot.
        key = tuple((row.name, id(model.findings) if (model := self._model(row, name)) else 0) for row in serving)
        found = self._judged.get(key)
        if found is None:
            found = self._judged[key] = self._judgement(name, serving)
        return found

    def _judgement(self, name: str, serving: Sequence[ProviderRow]) -> Judgement:
        return {ability: _merged([self._told(row, name, ability) for row in serving]) for ability in Ability}

    def refusals(self, name: str) -> Mapping[Ability, str]:
        """What it is known to be unable to do, with the reason for people; almost always empty."""
        found = self._refusals.get(name)
        if found is None:
            found = {
                ability: f"{name} cannot do {ability.value}: {_SAID_BY[answer.source]}"
                for ability, answer in self.judgement(name).items()
                if answer.answer is Answer.NO and answer.source is not None
            }
            if any(name in known.models for known in self.lists.values()):  # else any name that is sent would stay
                self._refusals[name] = found
        return found

    def _enabled(self) -> Iterator[ProviderRow]:
        return (row for row in self.providers if row.enabled)

    def _serving(self, name: str) -> Sequence[ProviderRow]:
        allowing = [row for row in self._enabled() if row.allows(name)]
        listing = [row for row in allowing if row.name not in self.lists or self._model(row, name) is not None]
        return listing or allowing

    def _model(self, row: ProviderRow, name: str) -> ListedModel | None:
        known = self.lists.get(row.name)
        return None if known is None else known.models.get(name)

    def _told(self, row: ProviderRow, name: str, ability: Ability) -> Judged:
        for provider in (row.name, EVERY_PROVIDER):
            override = self.overrides.get((provider, name), {}).get(ability)
            if override is not None:
                return Judged(override.answer, Source.OVERRIDE, override.created_at)
        known, model = self.lists.get(row.name), self._model(row, name)
        as_of = None if known is None else known.discovered_at
        finding = None if model is None else model.findings.get(ability)
        if finding is None:
            return Judged(Answer.UNKNOWN, None, as_of)
        return Judged(finding.answer, finding.source, as_of)


def _merged(told: Sequence[Judged]) -> Judged:
    """Yes when one can, no when none of them can, else unknown."""
    for wanted in (Answer.YES, Answer.UNKNOWN, Answer.NO):
        for judged in told:
            if judged.answer is wanted:
                return judged
    return Judged(Answer.UNKNOWN, None, None)


def by_model(overrides: Sequence[Override]) -> Mapping[tuple[str, str], Mapping[Ability, Override]]:
    """The overrides as a snapshot has them."""
    found: dict[tuple[str, str], dict[Ability, Override]] = {}
    for override in overrides:
        found.setdefault((override.provider, override.model), {})[override.ability] = override
    return found


def model_documents(snapshot: Snapshot) -> Iterator[dict[str, object]]:
    """Every model as `model_document` shows it."""
    shown: dict[int, tuple[Judgement, dict[str, object]]] = {}
    for name, served in snapshot.models():
        judgement = snapshot.judgement(name)
        known = shown.get(id(judgement))
        if known is None:  # with the judgement beside it, so that its id is not another's meanwhile
            known = shown[id(judgement)] = judgement, _judgement_document(snapshot, judgement)
        yield _document(name, served, known[1])


def model_document(
    snapshot: Snapshot, name: str, served: Sequence[tuple[ProviderRow, ListedModel]]
) -> dict[str, object]:
    """
    A model as `GET /v1/models` shows it: OpenAI's members, and ours.

    Shape: `{"id", "object": "model", "created", "owned_by", "capabilities": {"chat": {"answer": "yes", "source":
    "name", "age_s": 60}, ...}, "context_tokens": 128000, "pricing": {...}}`; the first provider that knows counts.
    """
    return _document(name, served, _judgement_document(snapshot, snapshot.judgement(name)))


def _document(
    name: str, served: Sequence[tuple[ProviderRow, ListedModel]], capabilities: dict[str, object]
) -> dict[str, object]:
    models = [model for _, model in served]
    return {
        "id": name,
        "object": "model",
        "created": next((model.created for model in models if model.created is not None), 0),
        "owned_by": next((model.owned_by for model in models if model.owned_by), served[0][0].name),
        "capabilities": capabilities,
        "context_tokens": next((model.context_tokens for model in models if model.context_tokens), None),
        "pricing": next((model.prices for model in models if model.prices), None),
    }


def _judgement_document(snapshot: Snapshot, judgement: Judgement) -> dict[str, object]:
    return {
        ability.value: {
            "answer": judged.answer.value,
            "source": None if judged.source is None else judged.source.value,
            "age_s": age_s(snapshot, judged.as_of),
        }
        for ability, judged in judgement.items()
    }


def age_s(snapshot: Snapshot, moment: datetime | None) -> int | None:
    """Whole seconds since then; None: never."""
    return None if moment is None else max(0, int((snapshot.now - moment).total_seconds()))
