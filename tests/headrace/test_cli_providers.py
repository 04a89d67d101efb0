from __future__ import annotations

from collections.abc import Generator

import pytest

from core.app import App
from core.sealing import new_key
from core.testing import FakeProvider, Fault
from tests.headrace.command import Command

KEY = "sk-canary-cli-3b9d"


@pytest.fixture
def fake() -> Generator[FakeProvider]:
    with FakeProvider() as server:
        yield server


def test_a_key_from_stdin_is_kept_encrypted_used_and_never_shown(
    headrace: Command, app: App, fake: FakeProvider
) -> None:
    added = headrace(
        "providers", "add", "openai", "--url", fake.url, "--api-key", "--model", "gpt-*", stdin=f"{KEY}\n".encode()
    )
    listed = headrace("providers", "list")
    shown = headrace("providers", "show", "openai", "--json")
    tested = headrace("providers", "test", "openai")

    assert added.code == listed.code == shown.code == tested.code == 0
    assert app.providers.api_key(app.providers.get("openai")) == KEY
    assert fake.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert "lists 4 models" in tested.out
    assert shown.json["models"] == ["gpt-*"]
    for ran in (added, listed, shown, tested):
        assert KEY not in ran.out + ran.err


def test_a_provider_is_changed_switched_and_removed(headrace: Command) -> None:
    headrace("providers", "add", "p", "--url", "https://host/v1", "--disabled", "--priority", "3", "--model", "a")

    enabled = headrace("providers", "enable", "p", "--json")
    updated = headrace(
        "providers", "update", "p", "--priority", "9", "--all-models", "--api-key-env", "OPENAI_API_KEY", "--json"
    )
    disabled = headrace("providers", "disable", "p", "--json")
    removed = headrace("providers", "remove", "p")

    assert (enabled.json["enabled"], enabled.json["priority"], enabled.json["models"]) == (True, 3, ["a"])
    assert (updated.json["priority"], updated.json["models"], updated.json["api_key"]) == (9, [], "environment")
    assert disabled.json["enabled"] is False
    assert removed.code == 0
    assert headrace("providers", "list", "--json").json == {"providers": []}


def test_a_failed_trial_exits_1_and_says_why(headrace: Command, fake: FakeProvider) -> None:
    headrace("providers", "add", "p", "--url", fake.url)
    fake.fail("/models", Fault(status=503), times=None)

    told, document = headrace("providers", "test", "p"), headrace("providers", "test", "p", "--json")

    assert (told.code, document.code) == (1, 1)
    assert "503" in told.err
    assert (document.json["ok"], document.json["code"]) == (False, "provider_unavailable")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "p", "--url", "ftp://host"), 1, "base_url"),
        (("add", "P", "--url", "http://host"), 1, "name"),
        (("add", "p", "--url", "http://host", "--api-key-env", "HEADRACE_ADMIN_KEY"), 1, "api_key_env"),
        (("show", "nobody"), 4, "headrace providers list"),
        (("update", "nobody", "--priority", "1"), 4, "nobody"),
        (("disable", "nobody"), 4, "nobody"),
        (("remove", "nobody"), 4, "nobody"),
        (("test", "nobody"), 4, "nobody"),
        (("add", "p"), 2, "--url"),
    ],
)
def test_what_cannot_be_done_says_why(headrace: Command, words: tuple[str, ...], code: int, said: str) -> None:
    ran = headrace("providers", *words)

    assert ran.code == code
    assert said in ran.err


def test_the_provider_of_the_settings_is_listed_tested_and_not_changed(
    headrace: Command, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PROVIDER_URL", fake.url)

    listed = headrace("providers", "list", "--json")

    (row,) = listed.json["providers"]
    assert (row["name"], row["source"]) == ("default", "settings")
    assert headrace("providers", "test", "default").code == 0
    assert "HEADRACE_PROVIDER_URL" in headrace("providers", "disable", "default").err


def test_reseal_makes_an_old_key_needless(headrace: Command, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app.settings.encryption_key is not None
    old, new = app.settings.encryption_key.get_secret_value(), new_key()
    headrace("providers", "add", "p", "--url", "http://127.0.0.1:9", "--api-key", stdin=f"{KEY}\n".encode())
    monkeypatch.setenv("HEADRACE_ENCRYPTION_KEY", new)
    unopened = headrace("providers", "test", "p", "--json")

    monkeypatch.setenv("HEADRACE_ENCRYPTION_KEY", f"{new},{old}")
    resealed = headrace("providers", "reseal", "--json")
    monkeypatch.setenv("HEADRACE_ENCRYPTION_KEY", new)

    assert unopened.json["code"] == "provider_not_configured"
    assert resealed.json == {"resealed": 1}
    assert headrace("providers", "test", "p", "--json").json["code"] == "provider_unavailable"  # it was called
