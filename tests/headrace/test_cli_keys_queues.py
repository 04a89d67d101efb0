from __future__ import annotations

import pytest

from core.app import App
from tests.headrace.command import Command


def test_a_created_key_opens_the_door_and_is_never_shown_again(headrace: Command, app: App) -> None:
    created = headrace("keys", "create", "--name", "billing", "--json")
    listed = headrace("keys", "list", "--json")

    key = created.json["key"]
    found = app.keys.authenticate(key)
    assert found is not None
    assert found.key_id == created.json["key_id"]
    assert [entry["name"] for entry in listed.json["keys"]] == ["billing"]
    assert key not in listed.out


def test_only_the_key_goes_to_stdout_so_that_a_script_can_take_it(headrace: Command, app: App) -> None:
    ran = headrace("keys", "create", "--name", "billing")

    assert app.keys.authenticate(ran.out.strip()) is not None
    assert ran.out.strip() not in ran.err


def test_a_disabled_key_is_listed_as_such_and_refused(headrace: Command, app: App) -> None:
    key = app.keys.create("billing")

    disabled = headrace("keys", "disable", key.key_id, "--json")
    again = headrace("keys", "disable", key.key_id)

    assert disabled.json["disabled_at"] is not None
    assert again.code == 0
    assert app.keys.authenticate(key.clear_key) is None
    assert "disabled" in headrace("keys", "list").out


def test_an_unknown_key_exits_4(headrace: Command) -> None:
    ran = headrace("keys", "disable", "nobody")

    assert ran.code == 4
    assert "headrace keys list" in ran.err


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 201])
def test_a_name_that_cannot_be_listed_is_refused(headrace: Command, name: str) -> None:
    ran = headrace("keys", "create", "--name", name)

    assert ran.code == 1
    assert "name" in ran.err


def test_an_added_queue_takes_tasks_at_once(headrace: Command, app: App) -> None:
    owner = app.keys.create("tests").key_id
    before = headrace("tasks", "enqueue", "diagnostic.noop", "--queue", "slow", "--owner", owner)

    added = headrace("queues", "add", "slow", "--json")
    again = headrace("queues", "add", "slow")
    after = headrace("tasks", "enqueue", "diagnostic.noop", "--queue", "slow", "--owner", owner)

    assert before.code == 1
    assert [queue["name"] for queue in added.json["queues"]] == ["slow"]
    assert again.code == after.code == 0
    assert {queue["name"] for queue in headrace("queues", "list", "--json").json["queues"]} == {"default", "slow"}


def test_a_bad_queue_name_is_refused(headrace: Command) -> None:
    ran = headrace("queues", "add", "Fast Lane")

    assert ran.code == 1
    assert "lower-case" in ran.err
