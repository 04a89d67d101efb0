from __future__ import annotations

import pytest

from core.app import App
from tests.headrace.command import Command


def test_figures_are_shown_as_a_table_and_as_json(headrace: Command, app: App) -> None:
    counters = app.access.caches.counters("task_status")
    for _ in range(3):
        counters.memory.add()
    counters.misses.add()
    counters.loaded(0.002)
    app.access.caches.statistics.flush()

    ran = headrace("cache", "stats")
    document = headrace("cache", "stats", "--json").json

    row = next(line for line in ran.out.splitlines() if line.startswith("task_status"))
    assert row.split()[1:5] == ["3", "1", "75.0", "%"]
    assert "Counted for" in ran.err
    assert (document["hits"], document["misses"], document["hit_ratio"]) == (3, 1, 0.75)


def test_a_reset_shows_the_figures_up_to_now(headrace: Command, app: App) -> None:
    app.access.caches.counters("task_status").memory.add()
    app.access.caches.statistics.flush()

    assert headrace("cache", "reset", "--json").json["hits"] == 1
    assert headrace("cache", "stats", "--json").json["hits"] == 0
    assert headrace("cache", "reset").code == 0


def test_entries_are_dropped_by_id(headrace: Command, app: App) -> None:
    key = app.capability_copies.key("acme")
    app.cache.client.set(key, "anything")

    ran = headrace("cache", "drop", "provider_capabilities", "acme", "--json")

    assert ran.json == {"cache": "provider_capabilities", "ids": 1, "everywhere": True}
    assert app.cache.client.exists(key) == 0
    assert "1 entries" in headrace("cache", "drop", "task_status", "a").out


def test_an_unknown_cache_exits_4_and_a_bad_id_1(headrace: Command) -> None:
    unknown = headrace("cache", "drop", "nothing", "a")

    assert unknown.code == 4
    assert "task_status" in unknown.err
    assert headrace("cache", "drop", "task_status", "a b").code == 1
    assert headrace("cache", "drop", "task_status").code == 2


def test_with_redis_off_a_drop_says_that_nobody_was_told(headrace: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", "memory")

    ran = headrace("cache", "drop", "task_status", "a")

    assert ran.code == 3
    assert "not told" in ran.err
    assert "alone" in headrace("cache", "stats").err
