"""Figures: nothing is lost or counted twice, a reset is one step, and counting costs no command a request."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from core.cache.caches import Caches
from core.cache.counters import Counter
from core.cache.figures import Figures
from core.cache.statistics import PREFIX, Statistics
from core.connections import RedisLink
from core.errors import Unavailable
from core.settings import Settings
from tests.support.caches import Process, Truth, fresh_prefix, pass_spec
from tests.support.redis_wire import LossyWire, heard_commands
from tests.support.waiting import wait_until


@pytest.fixture
def url(settings: Settings) -> str:
    """A Redis database of the test's own: the seed's names of the figures have no prefix."""
    assert settings.redis_url is not None
    return settings.redis_url.get_secret_value()


@pytest.fixture
def own_link(url: str) -> Generator[RedisLink]:
    opened = RedisLink(url, timeout_s=5.0)
    yield opened
    opened.close()


def of(figures: Figures, name: str) -> dict[str, int]:
    return dict(next(cache.counts for cache in figures.caches if cache.name == name))


def test_counts_of_many_threads_are_exact() -> None:
    counter = Counter()
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    taken = [0]
    stopping = threading.Event()

    def count(_: int) -> None:
        for _ in range(5000):
            counter.add()

    def take() -> None:
        while not stopping.is_set():
            taken[0] += counter.take()

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(count, range(8)))
    finally:
        stopping.set()
        taker.join(10)
        sys.setswitchinterval(switch)

    assert taken[0] + counter.take() == 40_000
    assert counter.take() == 0


def test_the_seeds_keys_hold_totals_over_caches_and_processes(own_link: RedisLink) -> None:
    processes = [Statistics(own_link) for _ in range(3)]
    for number, statistics in enumerate(processes):
        for name in ("one", "other"):
            counters = statistics.counters(name)
            for _ in range(number + 1):
                counters.memory.add()
            counters.redis.add()
            counters.misses.add()
            counters.coalesced.add()
            counters.loaded(0.001 * (number + 1))
            counters.invalidated("key", 2)
        assert statistics.flush()

    client = own_link.client
    assert client.get("conduit:cache:stats:hits") == b"18"
    assert client.get("conduit:cache:stats:misses") == b"12"
    assert client.get("conduit:cache:stats:invalidations") == b"12"
    since = client.get("conduit:cache:stats:reset_time")
    assert isinstance(since, bytes)
    assert datetime.fromisoformat(since.decode()).utcoffset() is not None
    assert client.hgetall("conduit:cache:stats:cache:one") == {
        b"memory": b"6",
        b"redis": b"3",
        b"misses": b"3",
        b"coalesced": b"3",
        b"loads": b"3",
        b"load_us": b"6000",
        b"load_max_us": b"3000",
        b"invalidations:key": b"6",
    }
    assert client.ttl("conduit:cache:stats:hits") == -1
    figures = processes[0].read()
    assert (figures.hits, figures.misses, figures.invalidations, figures.is_complete) == (18, 12, 12, True)
    one = figures.caches[0].to_document()
    assert one["hit_ratio"] == 0.6
    assert one["loads"] == {"count": 3, "failed": 0, "mean_ms": 2.0, "max_ms": 3.0}


def test_what_processes_counted_is_the_sum_whatever_was_reset_meanwhile(own_link: RedisLink) -> None:
    processes = [Statistics(own_link) for _ in range(4)]
    stopping = threading.Event()
    resets: list[Figures] = []

    def count(statistics: Statistics) -> None:
        counters = statistics.counters("passes")
        for number in range(4000):
            counters.memory.add()
            if number % 5 == 0:
                counters.misses.add()
                counters.invalidated("key")
            if number % 100 == 0:
                assert statistics.flush()

    def reset() -> None:
        while not stopping.is_set():
            resets.append(processes[0].reset())

    resetting = threading.Thread(target=reset, daemon=True)
    resetting.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, processes))
    stopping.set()
    resetting.join(20)
    for statistics in processes:
        statistics.close()

    last = Statistics(own_link).read()
    everything = [*resets, last]
    assert sum(figures.hits for figures in everything) == 16_000
    assert sum(figures.misses for figures in everything) == 3200
    assert sum(figures.invalidations for figures in everything) == 3200
    assert sum(of(figures, "passes").get("memory", 0) for figures in everything if figures.caches) == 16_000
    assert int(own_link.client.get(PREFIX + "hits") or 0) == last.hits
    assert len(resets) > 5
    assert own_link.client.zcard(PREFIX + "processes") == 1  # the one that read last: nothing piles up


def test_a_reset_gives_the_figures_up_to_now_and_begins_at_zero(own_link: RedisLink) -> None:
    statistics = Statistics(own_link)
    statistics.counters("passes").memory.add()
    first = statistics.read().reset_at
    assert first is not None

    previous = statistics.reset()

    assert (previous.hits, previous.reset_at) == (1, first)
    totals = [PREFIX + total for total in ("hits", "misses", "invalidations")]
    assert own_link.client.mget(totals) == [None] * 3
    now = statistics.read()
    assert (now.hits, now.misses, now.invalidations) == (0, 0, 0)
    assert of(now, "passes") == {}
    assert now.reset_at is not None
    assert now.reset_at >= first


@pytest.mark.parametrize("name", ["hits", "reset_time", "processes", "caches", "cache:passes"])
def test_junk_under_a_name_of_ours_is_replaced(own_link: RedisLink, name: str) -> None:
    statistics = Statistics(own_link)
    own_link.client.lpush(PREFIX + name, "junk")
    statistics.counters("passes").memory.add()

    figures = statistics.read()

    assert (figures.hits, of(figures, "passes")) == (1, {"memory": 1})


def test_a_message_whose_answer_was_lost_counts_once(url: str, own_link: RedisLink) -> None:
    """Its sender cannot know whether it arrived, and sends it again."""
    wire = LossyWire(url)
    link = RedisLink(wire.url, timeout_s=5.0)
    statistics = Statistics(link)
    counters = statistics.counters("passes")
    counters.memory.add()

    wire.loses_scripts = True
    assert not statistics.flush()
    assert own_link.client.get(PREFIX + "hits") == b"1"
    counters.memory.add()
    wire.loses_scripts = False
    wait_until(statistics.flush, 5, what="the link is used again")

    assert statistics.read().hits == 2
    assert of(statistics.read(), "passes") == {"memory": 2}
    link.close()
    wire.close()


def test_with_redis_away_nothing_is_lost(url: str, own_link: RedisLink) -> None:
    link = RedisLink("redis://127.0.0.1:1/0")
    away = Statistics(link)
    counters = away.counters("passes")
    for _ in range(3):
        counters.memory.add()
        assert not away.flush()

    own = away.read()
    assert (own.hits, own.is_complete) == (3, False)
    with pytest.raises(Unavailable, match="not reset"):
        away.reset()
    link.client = own_link.client  # Redis is back
    counters.memory.add()
    wait_until(away.flush, 5, what="the link is used again")

    assert away.read().hits == 4
    assert own_link.client.get(PREFIX + "hits") == b"4"


def test_with_redis_switched_off_a_process_keeps_its_own_figures() -> None:
    statistics = Statistics(RedisLink("redis://127.0.0.1:1/0", is_off=True))
    counters = statistics.counters("passes")
    for _ in range(3):
        counters.memory.add()
        statistics.flush()

    assert statistics.read().hits == 3
    assert statistics.reset().hits == 3
    assert statistics.read().hits == 0


def test_ten_thousand_hits_cost_no_command_and_a_message_costs_one(url: str, own_link: RedisLink) -> None:
    truth = Truth()
    truth.change("a")
    process = Process(own_link, pass_spec(fresh_prefix()), truth.load)
    process.cache.get("a")
    process.caches.statistics.flush()
    number = int(url.rpartition("/")[2])

    with heard_commands(url) as heard:
        for _ in range(10_000):
            process.cache.get("a")
        process.caches.statistics.flush()

    assert [command["command"].split()[0] for command in heard if command["db"] == number] == ["EVALSHA"]
    assert process.caches.statistics.read().hits == 10_000


def test_closing_sends_the_rest_and_leaves(own_link: RedisLink) -> None:
    caches = Caches(own_link, pepper="pepper")
    caches.start()
    caches.counters("passes").memory.add()

    caches.close()
    caches.close()

    assert own_link.client.get(PREFIX + "hits") == b"1"
    assert own_link.client.exists(PREFIX + "processes") == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "cache statistics"]


def test_a_process_that_counted_nothing_says_nothing(own_link: RedisLink) -> None:
    Caches(own_link, pepper="pepper").close()

    assert own_link.client.keys(PREFIX + "*") == []
