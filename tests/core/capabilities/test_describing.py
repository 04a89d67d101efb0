"""What names and providers' own words tell; the table is small, so that each row can be held to examples."""

from __future__ import annotations

import pytest

from core.capabilities.model import Ability, Answer, Findings
from core.capabilities.names import findings_of_name
from core.capabilities.prices import BY_MODEL, BY_NAME, BY_URL, PriceTable
from core.capabilities.told import context_told, findings_told


def said(findings: Findings, answer: Answer) -> set[str]:
    return {ability.value for ability, found in findings.items() if found.answer is answer}


@pytest.mark.parametrize(
    ("name", "can", "cannot"),
    [
        ("text-embedding-3-large", "embeddings", "chat vision tools images video audio"),
        ("vendor/nomic-embed-text:latest", "embeddings", "chat vision tools video"),
        ("BAAI/bge-m3", "embeddings", "chat vision tools video"),
        ("mistral-embed", "embeddings", "chat vision tools video"),
        ("gpt-4o-2024-08-06", "chat vision tools", "embeddings images video"),
        ("openai/gpt-5-mini", "chat vision tools", "embeddings images video"),
        ("gpt-3.5-turbo-0125", "chat tools", "embeddings images video audio"),
        ("gpt-image-1", "images", "chat vision tools embeddings video audio"),
        ("dall-e-3", "images", "chat vision tools embeddings video audio"),
        ("sora-2", "video", "chat vision tools embeddings images"),
        ("whisper-1", "audio", "chat vision tools embeddings images video"),
        ("claude-sonnet-4-5", "chat vision tools", "embeddings images video audio"),
        ("llama-3.3-70b-instruct", "chat", ""),
        ("omni-moderation-latest", "", "chat vision tools embeddings images video audio"),
    ],
)
def test_a_family_is_known_by_its_name(name: str, can: str, cannot: str) -> None:
    findings = findings_of_name(name)

    assert said(findings, Answer.YES) == set(can.split())
    assert said(findings, Answer.NO) == set(cannot.split())


@pytest.mark.parametrize(
    "name", ["gpt-5-pro", "gpt-4o-realtime-preview", "o1-pro", "bge-reranker-v2", "acme-1", "mistral-ocr", "fake-video"]
)
def test_what_is_in_doubt_is_not_said(name: str) -> None:
    assert findings_of_name(name) == {}


def test_a_gateway_that_tells_modalities_is_believed() -> None:
    entry = {
        "architecture": {"input_modalities": ["text", "image", "audio"], "output_modalities": ["text"]},
        "supported_parameters": ["tools", "temperature"],
        "context_length": 131_072,
    }

    assert said(findings_told(entry), Answer.YES) == {"chat", "vision", "audio", "tools"}
    assert said(findings_told(entry), Answer.NO) == {"embeddings", "images", "video"}
    assert context_told(entry) == 131_072


def test_a_capabilities_object_is_believed_in_both_dialects() -> None:
    assert said(findings_told({"capabilities": {"completion_chat": True, "vision": False}}), Answer.YES) == {"chat"}
    ours = {"capabilities": {"chat": {"answer": "no"}, "tools": {"answer": "unknown"}, "video": {"answer": "yes"}}}
    assert said(findings_told(ours), Answer.NO) == {"chat"}
    assert said(findings_told(ours), Answer.YES) == {"video"}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"capabilities": ["chat"]},
        {"capabilities": {"chat": "perhaps", "vision": None, "tools": {"answer": ["yes"]}}},
        {"architecture": "transformer"},
        {"architecture": {"input_modalities": "text", "output_modalities": [7]}},
        {"context_length": "many", "context_window": True, "max_model_len": -1},
    ],
)
def test_strange_entries_tell_nothing(entry: dict[str, object]) -> None:
    assert findings_told(entry) == {}
    assert context_told(entry) is None


@pytest.mark.parametrize(
    ("name", "url", "by"),
    [
        ("whatever", "https://api.openai.com/v1", BY_URL),
        ("openai", "http://proxy.internal/v1", BY_NAME),
        ("acme", "http://127.0.0.1:9/v1", BY_MODEL),
    ],
)
def test_prices_say_how_sure_they_are(name: str, url: str, by: str) -> None:
    priced = PriceTable(name, url).look_up("gpt-4o")

    assert priced.context_tokens == 128_000
    assert priced.prices is not None
    assert (priced.prices["vendor"], priced.prices["by"]) == ("openai", by)


def test_a_model_nobody_prices_is_unpriced_and_not_free() -> None:
    assert PriceTable("acme", "http://127.0.0.1:9/v1").look_up("acme-1").prices is None


def test_prices_with_tiers_keep_them() -> None:
    priced = PriceTable("acme", "http://127.0.0.1:9/v1").look_up("claude-sonnet-4-5")

    assert priced.prices is not None
    assert priced.prices["usd"]["input_mtok"] == {"base": "3", "tiers": [{"start": 200_000, "price": "6"}]}


def test_nothing_is_ever_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)

    assert PriceTable("openai", "https://api.openai.com/v1").look_up("gpt-4o").prices is not None
    assert said(findings_of_name("gpt-4o"), Answer.YES) >= {Ability.CHAT.value}
