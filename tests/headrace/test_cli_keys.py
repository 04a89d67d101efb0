"""`headrace keys`: everything that the admin API can do, for who sits at the machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from core.app import App
from core.events.access import Limits
from core.settings import Settings
from tests.headrace.command import Command, make_command


def test_a_key_is_made_shown_changed_and_cleared_with_all_options(headrace: Command, app: App) -> None:
    made = headrace(
        "keys", "create", "--name", "billing", "--group", "team-a", "--expires", "90d", "--type", "chat.*",
        "--type", "embedding", "--model", "gpt-4o*", "--rpm", "60", "--rpd", "1000", "--tpm", "100000",
        "--concurrency", "4", "--json",
    ).json  # fmt: skip

    assert app.keys.authenticate(made["key"]) is not None
    key = app.keys.get(made["key_id"])
    assert (key.group, key.allowed_types, key.allowed_models) == ("team-a", ("chat.*", "embedding"), ("gpt-4o*",))
    assert key.limits == Limits(60, 1000, 100_000, 4)
    assert key.expires_at is not None
    assert abs(key.expires_at - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)

    shown = headrace("keys", "show", key.key_id)
    assert "chat.*, embedding" in shown.out
    assert "rpm 60" in shown.out
    document = headrace("keys", "show", key.key_id, "--json").json
    assert document == {name: value for name, value in made.items() if name != "key"}
    assert document["id"] == document["key_id"] == key.key_id

    changed = headrace(
        "keys", "update", key.key_id, "--rpm", "120", "--clear", "expires", "--clear", "type", "--json"
    ).json
    assert (changed["rpm"], changed["rpd"], changed["expires_at"], changed["allowed_types"]) == (120, 1000, None, [])


def test_a_key_is_disabled_enabled_rotated_and_deleted(headrace: Command, app: App) -> None:
    new = app.keys.create("n")

    assert headrace("keys", "disable", new.key_id, "--json").json["enabled"] is False
    assert headrace("keys", "enable", new.key_id, "--json").json["disabled_at"] is None
    rotated = headrace("keys", "rotate", new.key_id, "--overlap", "30min")
    assert app.keys.authenticate(rotated.out.strip()) is not None
    old = app.keys.authenticate(new.clear_key)
    assert old is not None
    assert old.secret_until is not None
    assert headrace("keys", "rotate", new.key_id, "--overlap", "0", "--json").json["key_id"] == new.key_id
    assert app.keys.authenticate(new.clear_key) is None

    assert headrace("keys", "delete", new.key_id, "--json").json == {"key_id": new.key_id, "deleted": True}
    assert headrace("keys", "show", new.key_id).code == 4
    assert headrace("keys", "delete", new.key_id).code == 4
    assert headrace("keys", "list", "--json").json["keys"] == []


def test_a_list_is_paged_and_filtered(headrace: Command, app: App) -> None:
    made = [app.keys.create("n", group="g").key_id for _ in range(3)]
    app.keys.create("other")

    first = headrace("keys", "list", "--group", "g", "--limit", "2", "--json").json
    second = headrace("keys", "list", "--group", "g", "--cursor", first["next_cursor"], "--json").json
    newest = headrace("keys", "list", "--newest", "--limit", "1", "--json").json

    assert [key["key_id"] for key in first["keys"] + second["keys"]] == made
    assert second["next_cursor"] is None
    assert newest["keys"][0]["name"] == "other"
    assert "--cursor" in headrace("keys", "list", "--limit", "1").err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("create", "--name", "n", "--rpm", "0"), 1, "rpm"),
        (("create", "--name", "n", "--rpm", "x"), 2, "--rpm"),
        (("create", "--name", "n", "--expires", "soon"), 1, "expires_at"),
        (("create", "--name", "n", "--expires", "0s"), 1, "in the future"),
        (("create", "--name", "n", "--type", "a*b"), 1, "allowed_types[0]"),
        (("create", "--name", "n", "--group", "a b"), 1, "group"),
        (("update", "k" * 12), 2, "say what to change"),
        (("update", "k" * 12, "--rpm", "1"), 4, "headrace keys list"),
        (("update", "k" * 12, "--clear", "name"), 2, "--clear name"),
        (("update", "k" * 12, "--rpm", "1", "--clear", "rpm"), 2, "give one of them"),
        (("rotate", "k" * 12, "--overlap", "often"), 1, "overlap"),
        (("rotate", "k" * 12, "--overlap", "31d"), 1, "overlap_s"),
        (("list", "--cursor", "x"), 1, "cursor"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(headrace: Command, words: tuple[str, ...], code: int, told: str) -> None:
    ran = headrace("keys", *words)

    assert ran.code == code, ran.err
    assert told in ran.err


def test_an_operator_is_told_when_a_pepper_may_go(
    app: App, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = app.keys.create("n")
    old = settings.key_pepper
    assert old is not None
    both = f"2:{'n' * 40},1:{old.get_secret_value()}"
    headrace = make_command(settings, monkeypatch, capsys)
    monkeypatch.setenv("HEADRACE_KEY_PEPPER", both)

    before = headrace("keys", "list")
    assert "1 of pepper 1" in before.err
    assert "may leave" not in before.err

    rotated = headrace("keys", "rotate", new.key_id, "--overlap", "0")
    assert rotated.code == 0
    after = headrace("keys", "list")
    assert "nothing needs pepper 1 any more" in after.err
    assert headrace("keys", "list", "--json").json["pepper_versions"] == {"2": 1}

    monkeypatch.setenv("HEADRACE_KEY_PEPPER", f"3:{'x' * 40}")
    assert "keys of pepper 2 are refused" in headrace("keys", "list").err


def test_every_command_has_an_example(headrace: Command) -> None:
    for command in ("create", "list", "show", "update", "disable", "enable", "rotate", "delete"):
        ran = headrace("keys", command, "--help")
        assert ran.code == 0
        assert f"Example: headrace keys {command}" in " ".join(ran.out.split())
