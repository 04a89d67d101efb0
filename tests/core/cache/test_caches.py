"""All caches of a process: names, drops by an operator in every process, and the table of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.app import App
from core.connections import RedisLink
from core.errors import CacheNotFound, InvalidRequest
from core.events.access import EntriesDropped
from tests.support.caches import Pass, Process, Relay, Truth, pass_spec

DOCUMENT = Path(__file__).parents[3] / "docs" / "caches.md"


def test_an_operators_drop_reaches_redis_and_the_memory_of_every_process(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    relay = Relay()
    processes = [Process(link, pass_spec(prefix), truth.load, relay=relay) for _ in range(3)]
    for id in "ab":
        truth.change(id)
        for process in processes:
            process.cache.get(id)
    truth.rows["a"] = Pass(1, enabled=False)  # wrong without a new version: what operators drop entries for

    assert processes[0].caches.drop_everywhere("passes", ["a"])

    assert relay.told == [EntriesDropped("passes", ("a",))]
    assert [process.cache.peek("a") for process in processes] == [None] * 3
    assert [process.cache.get("a") for process in processes] == [Pass(1, enabled=False)] * 3
    assert [process.cache.peek("b") for process in processes] == [Pass(1)] * 3


def test_with_redis_away_an_operator_is_told_that_only_this_process_dropped(prefix: str, truth: Truth) -> None:
    process = Process(RedisLink("redis://127.0.0.1:1/0"), pass_spec(prefix), truth.load, relay=Relay())
    truth.change("a")
    process.cache.get("a")

    assert not process.caches.drop_everywhere("passes", ["a"])
    assert process.cache.peek("a") is None


def test_a_change_of_a_cache_that_this_process_does_not_have_is_ignored(
    link: RedisLink, prefix: str, truth: Truth
) -> None:
    process = Process(link, pass_spec(prefix), truth.load)

    process.caches.apply(EntriesDropped("of a newer version", ("a",)))
    process.caches.apply(EntriesDropped("passes", None))


def test_an_unknown_cache_is_told_with_those_there_are(link: RedisLink, prefix: str, truth: Truth) -> None:
    process = Process(link, pass_spec(prefix), truth.load)

    with pytest.raises(CacheNotFound, match="there are: passes"):
        process.caches.drop_everywhere("nothing", ["a"])


@pytest.mark.parametrize(
    ("ids", "field"),
    [
        ([], "ids"),
        (["a"] * 1001, "ids"),
        (["a", ""], "ids[1]"),
        (["a b"], "ids[0]"),
        (["a", "b", "c\n"], "ids[2]"),
        (["*"], "ids[0]"),
        (["é"], "ids[0]"),
        (["a" * 201], "ids[0]"),
    ],
)
def test_a_bad_id_is_named(link: RedisLink, prefix: str, truth: Truth, ids: list[str], field: str) -> None:
    process = Process(link, pass_spec(prefix), truth.load)

    with pytest.raises(InvalidRequest) as refused:
        process.caches.drop_everywhere("passes", ids)

    assert refused.value.field == field


def test_the_table_of_caches_is_what_is_declared(app: App) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE
    )
    documented = {name: [cell.strip() for cell in cells] for name, *cells in rows}

    assert set(app.access.caches.names) <= documented.keys()
    for spec in app.access.caches.specs:
        key, in_redis, in_memory, dropped_by = documented[spec.name]
        written = key.replace("{instance}", app.settings.instance_name).replace("{id}", "ID")
        assert spec.key("ID") == written, spec.name
        assert in_redis == f"{spec.ttl_s:g} s", spec.name
        assert in_memory == f"{spec.memory_s:g} s, {spec.memory_entries} entries", spec.name
        assert dropped_by == ", ".join(f"`{event.__name__}`" for event in spec.dropped_by), spec.name
