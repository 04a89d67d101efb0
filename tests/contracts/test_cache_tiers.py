"""What every tier of a cache does, memory and Redis alike."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import pytest

from core.cache.counters import Counters
from core.cache.memory import MemoryTier
from core.cache.redis_tier import RedisTier
from core.connections import RedisLink
from core.embedded import Servers
from tests.support.caches import Pass, fresh_prefix, pass_spec
from tests.support.waiting import wait_until


class Tier(Protocol):
    def get(self, id: str) -> Pass | None: ...
    def put(self, id: str, value: Pass) -> bool: ...
    def drop(self, ids: Sequence[str], *, newer_than: int | None = None) -> int: ...


class ReadTier:
    """The Redis tier by the words of the memory tier."""

    def __init__(self, tier: RedisTier[Pass]) -> None:
        self._tier = tier
        self.put = tier.put
        self.drop = tier.drop

    def get(self, id: str) -> Pass | None:
        return self._tier.read(id).value


class MakeTier(Protocol):
    def __call__(self, *, life_s: float = 300.0) -> Tier: ...


@pytest.fixture(params=["memory", "redis"])
def make_tier(request: pytest.FixtureRequest, servers: Servers) -> Generator[MakeTier]:
    link = RedisLink(servers.redis_url, timeout_s=5.0)

    def make(*, life_s: float = 300.0) -> Tier:
        spec = pass_spec(fresh_prefix(), ttl_s=life_s, memory_s=life_s)
        if request.param == "redis":
            return ReadTier(RedisTier(spec, link, Counters("passes")))
        return MemoryTier(limit=100, life_s=life_s, version=spec.version, rest_s=spec.life_s)

    yield make
    link.close()


@pytest.fixture
def tier(make_tier: MakeTier) -> Tier:
    return make_tier()


def test_what_was_stored_is_there_under_its_id_alone(tier: Tier) -> None:
    assert tier.put("a", Pass(1, enabled=False))

    assert tier.get("a") == Pass(1, enabled=False)
    assert tier.get("b") is None
    assert tier.get("") is None


def test_a_newer_value_replaces_an_older_one_and_never_the_other_way_round(tier: Tier) -> None:
    assert tier.put("a", Pass(2))

    assert not tier.put("a", Pass(1))
    assert tier.get("a") == Pass(2)
    assert tier.put("a", Pass(2, enabled=False))
    assert tier.put("a", Pass(10))
    assert tier.get("a") == Pass(10)


def test_versions_of_microseconds_are_ordered_exactly(tier: Tier) -> None:
    now_us = 1_790_000_000_000_000

    assert tier.put("a", Pass(now_us + 1))
    assert not tier.put("a", Pass(now_us))
    assert tier.drop(["a"], newer_than=now_us + 2) == 1
    assert not tier.put("a", Pass(now_us + 1))
    assert tier.put("a", Pass(now_us + 2))


def test_a_dropped_value_is_gone_and_the_others_stay(tier: Tier) -> None:
    for id in "abc":
        tier.put(id, Pass(1))

    tier.drop(["a", "c", "never there"])

    assert [tier.get(id) for id in "abc"] == [None, Pass(1), None]


def test_after_a_drop_without_a_version_the_same_value_may_come_again(tier: Tier) -> None:
    tier.put("a", Pass(7))
    tier.drop(["a"])

    assert tier.put("a", Pass(7))
    assert tier.get("a") == Pass(7)


def test_a_drop_up_to_a_version_keeps_older_values_out(tier: Tier) -> None:
    tier.put("a", Pass(3))
    tier.drop(["a"], newer_than=4)

    assert tier.get("a") is None
    assert not tier.put("a", Pass(3))
    assert tier.get("a") is None
    assert tier.put("a", Pass(4))
    assert tier.get("a") == Pass(4)


def test_a_drop_up_to_a_version_keeps_older_values_out_that_were_never_there(tier: Tier) -> None:
    tier.drop(["a"], newer_than=4)

    assert not tier.put("a", Pass(3))
    assert tier.put("a", Pass(4))


def test_a_drop_told_again_or_late_takes_nothing_newer_away(tier: Tier) -> None:
    tier.drop(["a"], newer_than=4)
    tier.put("a", Pass(4))

    assert tier.drop(["a"], newer_than=4) == 0
    assert tier.drop(["a"], newer_than=2) == 0
    assert tier.get("a") == Pass(4)


def test_a_drop_without_a_version_forgets_no_announced_version(tier: Tier) -> None:
    tier.drop(["a"], newer_than=4)
    tier.drop(["a"])

    assert not tier.put("a", Pass(3))
    assert tier.put("a", Pass(4))


def test_an_entry_ends(make_tier: MakeTier) -> None:
    tier = make_tier(life_s=0.1)
    tier.put("a", Pass(1))

    wait_until(lambda: tier.get("a") is None, 2, what="its end")


def test_an_entry_ends_with_its_value(tier: Tier) -> None:
    assert tier.put("a", Pass(1, life_s=0.1))
    assert tier.put("b", Pass(1, life_s=60))

    wait_until(lambda: tier.get("a") is None, 2, what="its end")
    assert tier.get("b") is not None


@pytest.mark.parametrize("life_s", [0.0, -5.0])
def test_a_value_whose_life_is_over_is_not_stored(tier: Tier, life_s: float) -> None:
    assert not tier.put("a", Pass(1, life_s=life_s))
    assert tier.get("a") is None


@pytest.mark.parametrize("id", ["a b", "*", "a:b", "ä", "{x}", "a" * 1000])
def test_an_id_is_never_taken_for_another(tier: Tier, id: str) -> None:
    tier.put(id, Pass(5))

    assert tier.get(id) == Pass(5)
    assert tier.get(id + "x") is None
    assert tier.get(id[:-1]) is None
