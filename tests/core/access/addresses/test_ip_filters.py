"""The rules as operators change them, and the set the door asks."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import orjson
import pytest
import redis
import sqlalchemy as sa

from core.access.addresses.ip_filter_table import IpFilterExists, IpFilterNotFound
from core.access.addresses.ip_filters import IpFilters, load_rules, spec
from core.access.addresses.ip_rules import Action
from core.app import App
from core.cache.caches import Caches
from core.connections import connect_database
from core.errors import InvalidRequest, Unavailable
from core.events.access import IpFiltersChanged, change_of
from tests.core.access.clients import stored
from tests.core.access.gate import Gate, gate_to
from tests.support.waiting import wait_until

ADDRESS = ip_address("203.0.113.7")


def made(engine: sa.Engine, app: App) -> IpFilters:
    return IpFilters(engine, key_exists=app.keys.exists, relay=lambda: None)


@pytest.fixture
def app(emptied: App) -> App:
    return emptied


@pytest.fixture
def filters(app: App) -> Generator[IpFilters]:
    """The web process's."""
    found = made(app.engine, app)
    found.reload()
    yield found
    found.close()


@pytest.fixture
def other(app: App) -> Generator[IpFilters]:
    """Another process, which follows what it hears."""
    found = made(app.engine, app)
    found.start()
    yield found
    found.close()


@pytest.fixture
def gate(app: App) -> Generator[Gate]:
    assert app.settings.database_url is not None
    with gate_to(app.settings.database_url.get_secret_value()) as gate:
        yield gate


class Trusting:
    """What a process in step with the change log knows."""

    def epoch(self) -> str:
        return "e1"

    def is_current(self) -> bool:
        return True


def cached(app: App, engine: sa.Engine | None = None) -> IpFilters:
    """A process that shares the set by Redis."""
    found = engine or app.engine
    cache = Caches(app.cache, pepper="p" * 32, trust=Trusting()).add(
        spec(app.settings.instance_name), lambda _: load_rules(found)
    )
    return IpFilters(found, key_exists=app.keys.exists, relay=lambda: None, cache=cache)


def version(app: App) -> int:
    with app.engine.connect() as connection:
        texts = connection.exec_driver_sql("SELECT change FROM access_changes ORDER BY created_at").scalars().all()
    found = [change for change in map(change_of, texts) if isinstance(change, IpFiltersChanged)]
    return found[-1].version


def test_a_change_is_in_force_when_its_caller_hears_that_it_is_done(filters: IpFilters) -> None:
    assert filters.check(ADDRESS).allowed

    rule = filters.create(Action.DENY, "203.0.113.0/24")
    assert not filters.check(ADDRESS).allowed

    filters.update(str(rule.id), enabled=False)
    assert filters.check(ADDRESS).allowed
    filters.update(str(rule.id), enabled=True, cidr="203.0.113.7")
    assert not filters.check(ADDRESS).allowed
    filters.delete(str(rule.id))
    assert filters.check(ADDRESS).allowed


def test_the_checker_of_another_process_follows_the_event(filters: IpFilters, other: IpFilters, app: App) -> None:
    filters.create(Action.DENY, "203.0.113.0/24")
    assert other.check(ADDRESS).allowed

    other.apply(IpFiltersChanged(version(app)))

    wait_until(lambda: not other.check(ADDRESS).allowed, what="the rule is followed")


def test_a_copy_that_is_older_than_the_event_does_not_count(filters: IpFilters, app: App) -> None:
    """Nobody relays here, so the copy in Redis stays what it was until somebody knows better."""
    first, second = cached(app), cached(app)
    first.reload()
    old = first.version
    filters.create(Action.DENY, "203.0.113.0/24")
    second.reload()
    assert second.version == old

    second.apply(IpFiltersChanged(version(app)))
    second.reload()
    third = cached(app)
    third.reload()

    assert not second.check(ADDRESS).allowed
    assert third.version == second.version == version(app)


def test_the_copy_in_redis_is_as_the_contract_says(filters: IpFilters, app: App, store: redis.Redis) -> None:
    rule = filters.create(Action.DENY, "203.0.113.0/24")
    cached(app).reload()
    name = f"{app.settings.instance_name}ip_filters"

    value = stored(store, name)

    assert value["value"]["rules"] == [{"id": str(rule.id), "action": "deny", "cidr": "203.0.113.0/24", "key_id": None}]
    assert value["version"] == value["value"]["version"] == version(app)
    assert value["mac"]
    assert 260_000 < int(store.pttl(name)) <= 300_000


def test_a_forged_or_corrupt_copy_lets_nobody_in(filters: IpFilters, app: App, store: redis.Redis) -> None:
    filters.create(Action.DENY, "203.0.113.0/24")
    cached(app).reload()
    name = f"{app.settings.instance_name}ip_filters"
    value = stored(store, name)
    value["value"]["rules"] = []
    for forged in (orjson.dumps(value), b"junk", b"{}"):
        store.set(name, forged, ex=300)
        reader = cached(app)

        reader.reload()

        assert not reader.check(ADDRESS).allowed


def test_a_process_may_start_by_the_copy_while_the_database_is_away(filters: IpFilters, app: App, gate: Gate) -> None:
    filters.create(Action.DENY, "203.0.113.0/24")
    cached(app).reload()
    gate.shut()
    engine = connect_database(gate.url)
    far = cached(app, engine)

    far.reload()

    assert not far.check(ADDRESS).allowed
    engine.dispose()


def test_lost_messages_are_made_up_for_when_a_gap_is_found(filters: IpFilters, other: IpFilters) -> None:
    filters.create(Action.DENY, "203.0.113.0/24")

    other.hurry()

    wait_until(lambda: not other.check(ADDRESS).allowed, what="the rule is followed")


def test_before_the_rules_were_ever_read_nobody_gets_in(app: App) -> None:
    with pytest.raises(Unavailable):
        made(app.engine, app).check(ADDRESS)


def test_with_the_database_away_the_last_good_set_answers_and_it_is_followed_again_afterwards(
    filters: IpFilters, app: App, gate: Gate
) -> None:
    engine = connect_database(gate.url)
    far = made(engine, app)
    filters.create(Action.DENY, "203.0.113.0/24")
    far.start()
    gate.shut()
    filters.create(Action.DENY, "192.0.2.0/24")
    far.apply(IpFiltersChanged(version(app)))

    assert not far.check(ADDRESS).allowed
    assert far.check(ip_address("192.0.2.1")).allowed
    gate.open()

    wait_until(lambda: not far.check(ip_address("192.0.2.1")).allowed, what="the set is read again")
    far.close()
    engine.dispose()


def test_a_process_that_starts_without_the_database_is_closed_until_it_is_back(app: App, gate: Gate) -> None:
    gate.shut()
    engine = connect_database(gate.url)
    far = made(engine, app)
    far.start()
    with pytest.raises(Unavailable):
        far.check(ADDRESS)

    gate.open()

    wait_until(lambda: far.version is not None, what="the rules are read")
    assert far.check(ADDRESS).allowed
    far.close()
    engine.dispose()


def test_rules_of_a_key_are_for_that_key(filters: IpFilters, app: App) -> None:
    mine, others = (app.keys.create("k").key_id for _ in range(2))
    filters.create(Action.ALLOW, "10.0.0.0/8", key_id=mine)

    assert not filters.check(ADDRESS, mine).allowed
    assert filters.check(ADDRESS, others).allowed
    assert filters.check(ADDRESS).allowed
    assert filters.check(ip_address("10.1.1.1"), mine).allowed
    assert [rule.key_id for rule in filters.page(key_id=mine).filters] == [mine]


def test_the_same_rule_twice_is_refused_however_it_is_written(filters: IpFilters, app: App) -> None:
    filters.create(Action.DENY, "203.0.113.0/24")
    for cidr in ("203.0.113.0/24", "::ffff:203.0.113.0/120"):
        with pytest.raises(IpFilterExists):
            filters.create(Action.DENY, cidr)

    filters.create(Action.ALLOW, "203.0.113.0/24")
    filters.create(Action.DENY, "203.0.113.0/24", key_id=app.keys.create("k").key_id)
    second = filters.create(Action.DENY, "203.0.112.0/24")
    with pytest.raises(IpFilterExists):
        filters.update(str(second.id), cidr="203.0.113.0/24")


def test_of_many_who_add_the_same_rule_at_once_one_does(filters: IpFilters) -> None:
    barrier = threading.Barrier(4)

    def add(round_: int) -> bool:
        barrier.wait()
        try:
            filters.create(Action.DENY, f"10.0.{round_}.0/24")
        except IpFilterExists:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        for round_ in range(20):
            assert sum(threads.map(add, [round_] * 4)) == 1


def test_an_update_that_changes_nothing_tells_nobody(filters: IpFilters, app: App) -> None:
    rule = filters.create(Action.DENY, "203.0.113.0/24", note="x")
    before = version(app)

    assert filters.update(str(rule.id), note="x", enabled=True) == rule

    assert version(app) == before


def test_fields_are_checked(filters: IpFilters) -> None:
    rule = filters.create(Action.DENY, "203.0.113.0/24")
    for field, value in (
        ("cidr", "10.0.0.0/33"),
        ("note", "x" * 501),
        ("note", "a\0"),
        ("key_id", "nobody123456"),
        ("key_id", ""),
        ("key_id", "a\0b"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            filters.update(str(rule.id), **{field: value})
        assert caught.value.field == field


def test_what_is_not_there_is_not_found(filters: IpFilters) -> None:
    for act in (filters.get, filters.delete, lambda id: filters.update(id, note="x")):
        for id in ("x", "\0", "00000000-0000-0000-0000-000000000000"):
            with pytest.raises(IpFilterNotFound):
                act(id)


def test_rules_are_paged_oldest_first(filters: IpFilters) -> None:
    made_ = [filters.create(Action.DENY, f"10.0.{number}.0/24").id for number in range(5)]
    first = filters.page(limit=3)
    second = filters.page(limit=3, cursor=first.next_cursor)

    assert [rule.id for rule in (*first.filters, *second.filters)] == made_
    assert second.next_cursor is None
    with pytest.raises(InvalidRequest, match="cursor"):
        filters.page(cursor="nope")


def test_a_process_that_does_not_keep_the_rules_decides_by_the_rows(filters: IpFilters, app: App) -> None:
    filters.create(Action.DENY, "203.0.113.0/24")

    assert not made(app.engine, app).check_now(ADDRESS, None).allowed
