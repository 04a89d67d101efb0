"""A provider's list as text and back: cut without being read when it is ours and undamaged, else read whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from core.capabilities.model import Ability, Answer, Finding, LazyModels, ListedModel, ModelList, Source

AT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
TIERS = {"base": "10", "tiers": [{"start": 200_000, "price": "20"}, {"start": 400_000, "price": "30"}]}
PRICES: dict[str, Any] = {"source": "genai-prices", "vendor": "openai", "model": "x", "usd": {"output_mtok": TIERS}}


def a_list(*names: str, owner: str | None = None) -> ModelList:
    findings = {Ability.CHAT: Finding(Answer.YES, Source.PROVIDER)}
    models = [
        ListedModel(id=name, findings=findings, context_tokens=9, prices=PRICES, owned_by=owner) for name in names
    ]
    return ModelList("acme", AT, {model.id: model for model in models})


@pytest.mark.parametrize(
    "names",
    [("one",), ("a", "b/c:d", "e@f"), ("é", "模型"), ("[", "]}", "{", "},{'id':'x")],
    ids=lambda names: names[0],
)
def test_a_list_is_cut_into_models_that_are_read_when_they_are_looked_at(names: tuple[str, ...]) -> None:
    known = a_list(*names)

    read = ModelList.of_json(known.to_json())

    assert isinstance(read.models, LazyModels)
    assert list(read.models) == list(names)
    assert dict(read.models) == known.models
    assert (read.provider, read.discovered_at, read.version) == (known.provider, known.discovered_at, known.version)


@pytest.mark.parametrize(
    "known",
    [a_list("a", 'x"},{"id":"y', "z"), a_list("back\\slash"), a_list("a", "b", owner='"},{"id":"c'), a_list()],
    ids=["quote", "backslash", "owner", "empty"],
)
def test_a_list_that_cannot_be_cut_is_read_whole(known: ModelList) -> None:
    read = ModelList.of_json(known.to_json())

    assert not isinstance(read.models, LazyModels)
    assert read == known


def test_a_copy_without_a_checksum_is_read_whole() -> None:
    known = a_list("a", "b")
    document = orjson.loads(known.to_json())
    del document["crc32"]

    read = ModelList.of_json(orjson.dumps(document))

    assert not isinstance(read.models, LazyModels)
    assert read == known


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_damage_is_found_before_a_model_is_looked_at(place: str) -> None:
    text = a_list("a", "b", "c").to_json()
    at = {"start": len(b'{"version":'), "middle": len(text) // 2, "end": len(text) - 3}[place]

    for damaged in (text[:at], text[:at] + b"," + text[at:]):
        with pytest.raises((ValueError, KeyError, TypeError)):
            ModelList.of_json(damaged)
