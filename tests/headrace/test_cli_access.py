"""`headrace ip-filters`, `bans` and `audit`, and the record of every command that changes something."""

from __future__ import annotations

import pytest

from core.app import App
from tests.headrace.command import Command

CLEAR_KEY = "hr_3fKq09ZcVb1x_" + "s" * 43 + "_abcdef"


def test_rules_are_added_tried_changed_and_removed(headrace: Command, app: App) -> None:
    made = headrace("ip-filters", "add", "deny", "203.0.113.0/24", "--note", "scrapers", "--json").json

    refused = headrace("ip-filters", "check", "203.0.113.7", "--json").json
    disabled = headrace("ip-filters", "update", made["id"], "--disable", "--json").json
    allowed = headrace("ip-filters", "check", "::ffff:203.0.113.7", "--json").json
    listed = headrace("ip-filters", "list")
    removed = headrace("ip-filters", "remove", made["id"])

    assert refused == {"allowed": False, "rule": made["id"], "action": "deny", "scope": "global"}
    assert (disabled["enabled"], disabled["note"]) == (False, "scrapers")
    assert allowed == {"allowed": True, "rule": None, "action": None, "scope": None}
    assert "203.0.113.0/24" in listed.out
    assert "disabled" in listed.out
    assert removed.code == 0
    assert headrace("ip-filters", "list", "--json").json["ip_filters"] == []
    assert headrace("ip-filters", "remove", made["id"]).code == 4


def test_rules_of_a_key_and_for_everybody(headrace: Command, app: App) -> None:
    key_id = app.keys.create("k").key_id
    made = headrace("ip-filters", "add", "allow", "10.0.0.0/8", "--key", key_id, "--json").json

    assert "refused: there are allow rules" in headrace("ip-filters", "check", "203.0.113.7", "--key", key_id).out
    assert "is allowed" in headrace("ip-filters", "check", "203.0.113.7").out
    assert headrace("ip-filters", "update", made["id"], "--everybody", "--json").json["key_id"] is None
    assert "is refused" in headrace("ip-filters", "check", "203.0.113.7").out


def test_bans_are_added_listed_and_lifted(headrace: Command, app: App) -> None:
    made = headrace("bans", "add", "2001:db8:1:2:3::4", "--reason", "scrapes", "--hours", "48", "--json").json
    headrace("bans", "add", "203.0.113.7", "--reason", "x", "--until", "2035-01-31T12:00:00Z")

    assert (made["ip"], made["active"]) == ("2001:db8:1:2::/64", True)
    listed = headrace("bans", "list")
    assert "203.0.113.7/32" in listed.out
    assert "scrapes" in listed.out
    assert "not banned any more" in headrace("bans", "lift", "203.0.113.7").out
    assert [ban["ip"] for ban in headrace("bans", "list", "--json").json["bans"]] == ["2001:db8:1:2::/64"]
    assert len(headrace("bans", "list", "--all", "--json").json["bans"]) == 2
    assert headrace("bans", "lift", "203.0.113.7").code == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ip-filters", "add", "deny", "10.0.0.1/8"), "cidr"),
        (("ip-filters", "add", "deny", "10.0.0.0/33"), "cidr"),
        (("ip-filters", "add", "deny", "10.0.0.0/8", "--key", "nobody123456"), "key_id"),
        (("ip-filters", "check", "x"), "ip"),
        (("bans", "add", "10.0.0.0/8", "--reason", "x"), "IP filter"),
        (("bans", "add", "127.0.0.1", "--reason", "x"), "never banned"),
        (("bans", "add", "203.0.113.7", "--reason", "x", "--until", "2020-01-01T00:00:00Z"), "until"),
    ],
)
def test_what_is_wrong_is_told(headrace: Command, words: tuple[str, ...], told: str) -> None:
    ran = headrace(*words)

    assert ran.code == 1
    assert told in ran.err


def test_every_command_that_changes_something_is_written_down_with_its_outcome(headrace: Command, app: App) -> None:
    headrace("bans", "add", "203.0.113.7", "--reason", "x")
    headrace("bans", "lift", "203.0.113.8")
    rule = headrace("ip-filters", "add", "deny", "203.0.113.0/24", "--json").json
    headrace("providers", "add", "p", "--url", "https://host/v1", "--api-key", stdin=b"sk-canary-audit-51c2\n")
    headrace("providers", "disable", "p")
    headrace("queues", "add", "nightly")
    headrace("ip-filters", "list")
    headrace("bans", "list")

    acts = headrace("audit", "list", "--json").json["acts"]

    assert [(act["action"], act["subject"], act["outcome"]) for act in acts] == [
        ("queues add", "nightly", "done"),
        ("providers update", "p", "done"),
        ("providers add", "p", "done"),
        ("ip-filters add", rule["id"], "done"),
        ("bans lift", "203.0.113.8", "failed"),
        ("bans add", "203.0.113.7", "done"),
    ]
    assert {(act["actor"], act["address"]) for act in acts} == {("command-line", None)}
    assert "sk-canary" not in headrace("audit", "list").out


def test_every_change_of_a_key_and_of_caches_is_written_down_without_the_key(headrace: Command) -> None:
    made = headrace("keys", "create", "--name", "billing", "--json").json
    key_id = made["id"]
    headrace("keys", "update", key_id, "--rpm", "0")
    headrace("keys", "update", key_id, "--rpm", "60")
    headrace("keys", "disable", key_id)
    headrace("keys", "enable", key_id)
    rotated = headrace("keys", "rotate", key_id).out.strip()
    headrace("keys", "delete", key_id)
    headrace("keys", "delete", key_id)
    headrace("keys", "list")
    headrace("cache", "reset")
    headrace("cache", "drop", "virtual_keys", "a")
    headrace("cache", "stats")

    acts = headrace("audit", "list", "--json")

    assert [(act["action"], act["subject"], act["outcome"]) for act in acts.json["acts"]] == [
        ("cache drop", "virtual_keys", "done"),
        ("cache reset", None, "done"),
        ("keys delete", key_id, "failed"),
        ("keys delete", key_id, "done"),
        ("keys rotate", key_id, "done"),
        ("keys enable", key_id, "done"),
        ("keys disable", key_id, "done"),
        ("keys update", key_id, "done"),
        ("keys update", key_id, "failed"),
        ("keys create", key_id, "done"),
    ]
    assert made["key"] not in acts.out
    assert rotated not in acts.out


def test_the_audit_log_is_paged_newest_first(headrace: Command) -> None:
    for number in range(3):
        headrace("queues", "add", f"q{number}")

    first = headrace("audit", "list", "--limit", "2", "--json").json
    second = headrace("audit", "list", "--limit", "2", "--cursor", first["next_cursor"], "--json").json

    assert [act["subject"] for act in (*first["acts"], *second["acts"])] == ["q2", "q1", "q0"]
    assert second["next_cursor"] is None
    assert headrace("audit", "list", "--cursor", "nope").code == 1


def test_a_clear_key_that_somebody_types_is_not_written_down(headrace: Command) -> None:
    headrace("ip-filters", "remove", CLEAR_KEY)

    acts = headrace("audit", "list", "--json").json["acts"]

    assert acts[0]["subject"] == "hr_3fKq09ZcVb1x_..."
