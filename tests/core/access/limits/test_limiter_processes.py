"""The limit holds over several processes, with Redis up and with Redis away."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.connections import RedisLink
from core.embedded import Servers, open_servers
from core.settings import load_settings
from tests.support.processes import python
from tests.support.waiting import wait_until
from tests.web.frozen import OwnServers

_PROCESS = """
import json, sys, threading, time
from core.access.limits.model import Ask, Slots, TokenBucket, Window
from core.access.limits.limiter import Fallback, Limiter
from core.access.limits.local_limiter import LocalLimiter, Share
from core.connections import RedisLink

url, processes, place, threads = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
share = Share(processes, int(place) if place else None)
clock = (lambda: 1_790_000_041.0)
link = RedisLink(url, timeout_s=5.0, max_connections=threads)
limiter = Limiter(link, Fallback("share", LocalLimiter(lambda: share, clock=clock)))
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    barrier = threading.Barrier(threads)
    passed = []
    def run(number):
        ask = Ask(
            tuple(Window(*window) for window in order.get("windows", [])),
            TokenBucket(order["tokens"][0], order["tokens"][1], order["tokens"][2]) if "tokens" in order else None,
            Slots(order["slots"][0], order["slots"][1], (f"{place}-{number}",)) if "slots" in order else None,
        )
        barrier.wait()
        for _ in range(order["each"]):
            decision = limiter.decide(ask)
            if decision.allowed:
                passed.append(decision.is_local)
    workers = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    time.sleep(max(0, order["at"] - time.time()))
    for w in workers: w.start()
    for w in workers: w.join()
    print(json.dumps({"passed": len(passed), "local": sum(passed)}), flush=True)
"""

Fire = Callable[[dict[str, Any]], list[dict[str, int]]]


@contextmanager
def processes(url: str, count: int = 2, *, threads: int = 10, know_their_places: bool = True) -> Generator[Fire]:
    """`fire(order)` lets all processes ask at the same moment, and returns what passed in each."""
    running: list[subprocess.Popen[str]] = []

    def tell(process: subprocess.Popen[str], order: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()

    def hear(process: subprocess.Popen[str]) -> dict[str, int]:
        assert process.stdout is not None
        answer: dict[str, int] = json.loads(process.stdout.readline())
        return answer

    def fire(order: dict[str, Any]) -> list[dict[str, int]]:
        for process in running:
            tell(process, order | {"at": order.get("at", 0)})
        return [hear(process) for process in running]

    try:
        for place in range(count):
            given = str(place) if know_their_places else ""
            running.append(python(_PROCESS, url, str(count), given, str(threads)))
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield fire
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_of_200_parallel_requests_at_a_limit_of_50_exactly_50_pass(servers: Servers, link: RedisLink) -> None:
    with processes(servers.redis_url) as fire:
        for round_number in range(60):
            windows = [["rpd", f"k{round_number}", 50, 86_400], ["ip", f"ip{round_number}", 1000, 86_400]]
            answers = fire({"each": 10, "windows": windows})
            assert sum(answer["passed"] for answer in answers) == 50
            assert sum(answer["local"] for answer in answers) == 0


def test_tokens_and_slots_are_exact_over_two_processes(servers: Servers, link: RedisLink) -> None:
    with processes(servers.redis_url) as fire:
        for round_number in range(30):
            # The bucket fills by a millionth of itself meanwhile: less than one request.
            tokens = fire({"each": 5, "tokens": [f"t{round_number}", 600, 60]})
            assert sum(answer["passed"] for answer in tokens) == 10
            slots = fire({"each": 1, "slots": [f"c{round_number}", 7]})
            assert sum(answer["passed"] for answer in slots) == 7


@pytest.mark.parametrize("count", [2, 3])
def test_without_redis_all_processes_together_pass_the_limit(count: int) -> None:
    with processes("redis://127.0.0.1:1/0", count, know_their_places=True) as fire:
        for round_number in range(20):
            for limit in (1, 50):
                answers = fire({"each": 10, "windows": [["rpd", f"k{round_number}-{limit}", limit, 86_400]]})
                assert sum(answer["passed"] for answer in answers) == limit
                assert all(answer["local"] == answer["passed"] for answer in answers)


def test_processes_that_do_not_know_their_place_stay_within_one_request_each() -> None:
    with processes("redis://127.0.0.1:1/0", 3, know_their_places=False) as fire:
        for limit in (1, 2, 50, 100):
            answers = fire({"each": 20, "windows": [["rpd", f"k{limit}", limit, 86_400]]})
            assert limit - 3 < sum(answer["passed"] for answer in answers) < limit + 3


@pytest.fixture
def own_redis(tmp_path: Path) -> Generator[tuple[str, OwnServers]]:
    """A Redis that a test may take away."""
    with open_servers(load_settings({}, data_dir=tmp_path / "own")) as settings:
        assert settings.redis_url is not None
        yield settings.redis_url.get_secret_value(), OwnServers(settings)


def test_when_redis_goes_at_most_twice_the_limit_passes_and_later_it_decides_again(
    own_redis: tuple[str, OwnServers],
) -> None:
    url, servers = own_redis
    order = {"each": 10, "windows": [["rpd", "k", 50, 86_400]]}
    with processes(url) as fire:
        assert sum(answer["passed"] for answer in fire(order)) == 50
        with servers.ended("valkey"):
            away = [answer for _ in range(5) for answer in fire(order)]
            assert sum(answer["passed"] for answer in away) == 50
            assert all(answer["local"] == answer["passed"] for answer in away)

        def redis_decides() -> bool:
            other = {"each": 1, "windows": [["rpd", f"later{time.monotonic()}", 6, 86_400]]}
            answers = fire(other)
            return sum(answer["local"] for answer in answers) == 0 and sum(a["passed"] for a in answers) == 6

        wait_until(redis_decides, 20, every=0.3, what="redis decides again")
