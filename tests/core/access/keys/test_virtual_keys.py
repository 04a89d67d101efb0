from __future__ import annotations

import itertools
import math
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import sqlalchemy as sa

from core.access.keys.peppers import Peppers
from core.access.keys.virtual_keys import VirtualKeys
from core.app import App
from core.errors import InvalidRequest, KeyChanged, KeyNotFound
from core.events.access import Limits
from tests.support.worker_processes import query

SOON = timedelta(hours=1)


def test_a_key_is_read_back_as_it_was_made(keys: VirtualKeys) -> None:
    expires_at = datetime.now(UTC) + SOON
    limits = Limits(60, 1000, 10**12, 4)

    new = keys.create(
        "billing",
        group="team-a",
        expires_at=expires_at,
        allowed_types=["chat.*", "embedding", "chat.*"],
        allowed_models=["gpt-4o*", "m/n:1"],
        limits=limits,
    )

    key = keys.get(new.key_id)
    assert key == new.key
    assert (key.name, key.group, key.expires_at, key.limits, key.version) == (
        "billing",
        "team-a",
        expires_at,
        limits,
        1,
    )
    assert (key.allowed_types, key.allowed_models) == (("chat.*", "embedding"), ("gpt-4o*", "m/n:1"))
    assert keys.authenticate(new.clear_key) == key
    assert new.clear_key not in repr(new)


BAD_LIMITS = [0, -1, 2**31, 1.5, math.nan, math.inf, True, "5", [1]]


@pytest.mark.parametrize("name", ["rpm", "rpd", "tpm", "concurrency"])
@pytest.mark.parametrize("value", BAD_LIMITS, ids=repr)
def test_a_bad_limit_is_refused_by_its_name(keys: VirtualKeys, name: str, value: Any) -> None:
    if name == "tpm" and value == 2**31:
        value = 10**12 + 1
    with pytest.raises(InvalidRequest) as created:
        keys.create("n", limits=Limits(**{name: value}))
    with pytest.raises(InvalidRequest) as updated:
        keys.update("k" * 12, **{name: value})

    assert (created.value.field, updated.value.field) == (name, name)


@pytest.mark.parametrize(
    ("field", "value", "at"),
    [
        ("group", "", "group"),
        ("group", "a b", "group"),
        ("group", "x" * 101, "group"),
        ("group", "a\n", "group"),
        ("group", 5, "group"),
        ("expires_at", datetime.now(UTC), "expires_at"),
        ("expires_at", datetime(2100, 1, 1), "expires_at"),
        ("expires_at", "2100-01-01", "expires_at"),
        ("allowed_types", "chat.completion", "allowed_types"),
        ("allowed_types", ["chat.*", "c*t"], "allowed_types[1]"),
        ("allowed_types", [""], "allowed_types[0]"),
        ("allowed_types", ["a b"], "allowed_types[0]"),
        ("allowed_types", ["a"] * 201, "allowed_types"),
        ("allowed_models", ["a**"], "allowed_models[0]"),
        ("allowed_models", ["x" * 201], "allowed_models[0]"),
        ("allowed_models", ["a\x00"], "allowed_models[0]"),
        ("allowed_models", [5], "allowed_models[0]"),
    ],
)
def test_a_bad_field_is_refused_by_its_name(keys: VirtualKeys, field: str, value: Any, at: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keys.create("n", **{field: value})

    assert refused.value.field == at


def test_an_update_changes_what_is_given_clears_what_is_none_and_leaves_the_rest(keys: VirtualKeys) -> None:
    new = keys.create(
        "n", group="g", expires_at=datetime.now(UTC) + SOON, allowed_types=["a"], limits=Limits(rpm=1, tpm=2)
    )

    key = keys.update(new.key_id, rpm=5, tpm=None, expires_at=None, allowed_types=None)

    assert (key.group, key.expires_at, key.allowed_types, key.limits) == ("g", None, (), Limits(rpm=5))
    assert key.version == 2
    assert keys.update(new.key_id, group=None).group is None
    assert keys.update(new.key_id, name="m").name == "m"
    assert keys.get(new.key_id).limits == Limits(rpm=5)


def test_a_change_from_an_old_version_is_refused_and_changes_nothing(keys: VirtualKeys) -> None:
    key_id = keys.create("n").key_id
    keys.update(key_id, rpm=1, if_version=1)

    with pytest.raises(KeyChanged, match="version 2, not 1"):
        keys.update(key_id, rpm=2, if_version=1)

    assert keys.get(key_id).limits.rpm == 1


def test_of_many_writers_from_one_version_one_gets_through(keys: VirtualKeys) -> None:
    key_id = keys.create("n").key_id
    start = threading.Barrier(8)

    def write(number: int) -> bool:
        start.wait(10)
        try:
            keys.update(key_id, rpm=number, if_version=1)
        except KeyChanged:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(1, 9))) == 1


def test_a_disabled_key_is_refused_until_it_is_enabled_and_doing_it_twice_changes_nothing(keys: VirtualKeys) -> None:
    new = keys.create("n")

    disabled = keys.disable(new.key_id)
    assert keys.disable(new.key_id) == disabled
    assert keys.authenticate(new.clear_key) is None
    assert keys.exists(new.key_id)

    enabled = keys.enable(new.key_id)
    assert keys.enable(new.key_id) == enabled
    assert keys.authenticate(new.clear_key) == enabled
    assert not keys.update(new.key_id, enabled=False).is_enabled


def test_a_deleted_key_is_gone_for_good_though_its_row_stays(shared: App, keys: VirtualKeys) -> None:
    new = keys.create("n", group=(group := secrets.token_hex(8)))
    rotated = keys.rotate(new.key_id)

    keys.delete(new.key_id)

    assert keys.authenticate(new.clear_key) is None
    assert keys.authenticate(rotated.clear_key) is None
    assert not keys.exists(new.key_id)
    assert keys.page(group=group).keys == []

    def update(key_id: str) -> object:
        return keys.update(key_id, rpm=1)

    calls: list[Callable[[str], object]] = [keys.get, keys.disable, keys.enable, keys.rotate, keys.delete, update]
    for call in calls:
        with pytest.raises(KeyNotFound):
            call(new.key_id)
    row = query(shared, f"SELECT key_hash, previous_hash, deleted_at FROM virtual_keys WHERE key_id = '{new.key_id}'")
    shown = shared.access.peppers.hash(new.clear_key), shared.access.peppers.hash(rotated.clear_key)
    assert bytes(row[0][0]) not in shown
    assert row[0][1] is None
    assert row[0][2] is not None


def test_a_rotated_key_works_with_both_secrets_until_the_overlap_ends(shared: App, keys: VirtualKeys) -> None:
    first = keys.create("n")
    second = keys.rotate(first.key_id, timedelta(hours=2))

    assert second.key_id == first.key_id
    assert second.clear_key != first.clear_key
    old = keys.authenticate(first.clear_key)
    assert old is not None
    assert old.secret_until is not None
    assert abs(old.secret_until - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    assert keys.authenticate(second.clear_key) == second.key
    assert second.key.secret_until is None

    with shared.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE virtual_keys SET previous_until = now() WHERE key_id = :id"), {"id": first.key_id}
        )
    assert keys.authenticate(first.clear_key) is None
    assert keys.authenticate(second.clear_key) is not None


def test_without_overlap_and_at_a_second_rotation_the_older_secret_ends_at_once(keys: VirtualKeys) -> None:
    first = keys.create("n")
    second = keys.rotate(first.key_id, timedelta())
    assert keys.authenticate(first.clear_key) is None

    third = keys.rotate(first.key_id)
    fourth = keys.rotate(first.key_id)
    answers = [keys.authenticate(new.clear_key) is not None for new in (first, second, third, fourth)]
    assert answers == [False, False, True, True]

    with pytest.raises(InvalidRequest) as refused:
        keys.rotate(first.key_id, timedelta(days=31))
    assert refused.value.field == "overlap_s"


def test_pages_hold_every_key_once_in_both_directions_while_keys_come_and_go(keys: VirtualKeys) -> None:
    group = secrets.token_hex(8)
    made = [keys.create(f"n{number}", group=group).key_id for number in range(7)]
    with pytest.raises(InvalidRequest, match="limit"):
        keys.page(limit=0)

    for newest_first in (False, True):
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = keys.page(limit=2, cursor=cursor, group=group, newest_first=newest_first)
            found += [key.key_id for key in page.keys]
            cursor = page.next_cursor
            if cursor is None:
                break
            if newest_first:
                keys.create("another", group=group)
        assert found == (made[::-1] if newest_first else made)

    for bad in ("", "x", "AAAA", "ZZZZ-_"):
        with pytest.raises(InvalidRequest) as refused:
            keys.page(cursor=bad)
        assert refused.value.field == "cursor"


def test_an_index_serves_the_pages(shared: App) -> None:
    with shared.engine.connect() as connection:
        for way in ("seqscan", "bitmapscan", "sort"):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        plan = "\n".join(
            row[0]
            for row in connection.exec_driver_sql(
                "EXPLAIN SELECT * FROM virtual_keys WHERE deleted_at IS NULL AND (created_at, key_id) > (now(), 'a')"
                " ORDER BY created_at, key_id LIMIT 10"
            )
        )
    assert "virtual_keys_listed" in plan
    assert "Sort" not in plan


def with_peppers(app: App, *versions: tuple[int, str]) -> VirtualKeys:
    engine = app.engine.execution_options(isolation_level="AUTOCOMMIT")
    return VirtualKeys(engine.connect, Peppers(dict(versions)))


def hashes(app: App, key_id: str) -> dict[str, Any]:
    with app.engine.connect() as connection:
        row = connection.execute(sa.text("SELECT * FROM virtual_keys WHERE key_id = :id"), {"id": key_id}).mappings()
        return cast("dict[str, Any]", dict(row.one()))


def test_a_key_under_an_older_pepper_works_and_moves_to_the_current_one_at_its_first_use(app: App) -> None:
    old, new = (1, "o" * 32), (2, "n" * 32)
    before = with_peppers(app, old)
    key = before.create("n")
    rotated = before.rotate(key.key_id)
    unused = before.create("unused")
    during = with_peppers(app, new, old)
    assert during.pepper_versions() == {1: 3}

    assert during.authenticate(key.clear_key) is not None
    assert during.pepper_versions() == {1: 2, 2: 1}
    assert during.authenticate(rotated.clear_key) is not None
    assert during.authenticate(rotated.clear_key) is not None
    row = hashes(app, key.key_id)
    assert (row["pepper_version"], row["previous_pepper_version"]) == (2, 2)
    assert row["version"] == 4  # create, rotate, and each secret moved once

    after = with_peppers(app, new)
    assert after.authenticate(rotated.clear_key) is not None
    assert after.authenticate(key.clear_key) is not None
    assert after.authenticate(unused.clear_key) is None
    assert after.pepper_versions() == {1: 1, 2: 2}


def test_processes_with_the_peppers_in_either_order_do_not_take_turns_at_the_row(app: App) -> None:
    old, new = (1, "o" * 32), (2, "n" * 32)
    first, second = with_peppers(app, old, new), with_peppers(app, new, old)
    key = first.create("n")

    for _ in range(3):
        assert first.authenticate(key.clear_key) is not None
        assert second.authenticate(key.clear_key) is not None

    assert hashes(app, key.key_id)["version"] == 2


def test_a_rotation_at_the_same_moment_as_a_first_use_loses_no_secret(app: App) -> None:
    old, new = (1, "o" * 32), (2, "n" * 32)
    before, during = with_peppers(app, old), with_peppers(app, new, old)
    start = threading.Barrier(3)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(40):
            key = before.create("n")

            def use(clear_key: str = key.clear_key) -> bool:
                start.wait(10)
                return during.authenticate(clear_key) is not None

            def rotate(key_id: str = key.key_id) -> str:
                start.wait(10)
                return during.rotate(key_id).clear_key

            uses = [pool.submit(use), pool.submit(use)]
            rotated = pool.submit(rotate).result(10)
            assert all(use.result(10) for use in uses)
            assert during.authenticate(rotated) is not None
            assert during.authenticate(key.clear_key) is not None


def test_every_change_is_announced_after_its_commit(shared: App) -> None:
    seen: list[int] = []
    engine = shared.engine.execution_options(isolation_level="AUTOCOMMIT")
    key_id = ""

    def announce() -> None:
        seen.append(query(shared, "SELECT count(*) FROM access_changes")[0][0])

    keys = VirtualKeys(engine.connect, shared.access.peppers, announce=announce)
    key_id = keys.create("n").key_id
    for change in (keys.disable, keys.enable, keys.rotate, lambda id: keys.update(id, rpm=1), keys.delete):
        change(key_id)

    assert len(seen) == 6
    assert all(later > earlier for earlier, later in itertools.pairwise(seen))
