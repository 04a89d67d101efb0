"""
What a decision over limits costs, beside the `limits` library on the same Redis.

`limits_*` has one window a decision, or two, which are two calls of it. `limiter_*` is ours: `one` and `two` are the
same windows, `all` is address, minute, day, tokens and concurrency in one call. `batched_*` is the web process's way,
with 64 requests at a time: its latency is that of a queue that is always full.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable

from bench.figures import Report, percentile
from bench.peer_environment import PEERS, PeersMissing, peer_environment
from bench.processes import output_of
from bench.system import Servers
from core.access.limits.limiter import Fallback, Limiter
from core.access.limits.limits_of import Caller, LimitKeys, Planned, ask_of_key
from core.access.limits.local_limiter import LocalLimiter
from core.access.limits.model import Ask
from core.connections import RedisLink
from core.events.access import Limits
from web.limits import WebLimits

AT_A_TIME = 64
KEYS = LimitKeys("bench:")
CALLER = Caller("/v1/tasks")
MINUTE = Limits(rpm=1_000_000)
DAY = Limits(rpm=1_000_000, rpd=100_000_000)
ALL = Limits(rpm=1_000_000, rpd=100_000_000, tpm=10**12, concurrency=1_000_000)


def expect(report: Report) -> None:
    report.expect("limiter_all_p99_us", "<", 1_000)
    report.expect("limiter_two_vs_limits", ">=", 1.0)


def run(servers: Servers, report: Report, *, decisions: int, rounds: int) -> None:
    """One round after another of all of them, so that a busy moment of the machine hits each."""
    try:
        python: str | None = str(peer_environment() / "python")
    except PeersMissing as error:
        python = None
        report.notes.append(f"without `limits`: {error}")
    for _ in range(rounds):
        url = servers.peer_redis_url()
        if python is not None:
            _add_peer(report, python, url, decisions, "limits_one", windows=1)
        _add_sync(report, url, decisions, "limiter_one", MINUTE)
        if python is not None:
            _add_peer(report, python, url, decisions, "limits_two", windows=2)
        _add_sync(report, url, decisions, "limiter_two", DAY)
        _add_sync(report, url, decisions, "limiter_all", ALL)
        _add_batched(report, url, decisions, "batched_one", MINUTE)
        _add_batched(report, url, decisions, "batched_all", ALL)
    report.add_ratio("limiter_one_vs_limits", "limiter_one_per_s", "limits_one_per_s")
    report.add_ratio("limiter_two_vs_limits", "limiter_two_per_s", "limits_two_per_s")
    report.add_ratio("batched_one_vs_limits", "batched_one_per_s", "limits_one_per_s")
    report.add_ratio("batched_all_vs_limits_two", "batched_all_per_s", "limits_two_per_s")


def _ask(number: int, limits: Limits) -> Ask:
    client = Caller(CALLER.route, client=f"192.0.2.{number % 100}", ip_rpm=10_000_000) if limits is ALL else CALLER
    tasks = [Planned(f"task_{number:032x}", 300)] if limits is ALL else []
    return ask_of_key(KEYS, client, key_id=f"key{number % 100}", limits=limits, tasks=tasks)


def _add(report: Report, name: str, per_s: float, took_us: list[float]) -> None:
    report.add(f"{name}_per_s", per_s)
    report.add(f"{name}_p50_us", percentile(took_us, 0.5))
    report.add(f"{name}_p99_us", percentile(took_us, 0.99))


def _add_peer(report: Report, python: str, url: str, decisions: int, name: str, *, windows: int) -> None:
    env = {"PATH": os.environ.get("PATH", ""), "BENCH_REDIS_URL": url}
    text = output_of([python, "limits_sliding.py", str(decisions), str(windows)], env=env, cwd=PEERS)
    for figure, value in json.loads(text).items():
        report.add(f"{name}_{figure}", value)


def _add_sync(report: Report, url: str, decisions: int, name: str, limits: Limits) -> None:
    link = RedisLink(url)
    limiter = Limiter(link, Fallback("closed", LocalLimiter()))
    took: list[float] = []
    for number in range(decisions + 100):
        began = time.perf_counter()
        decision = limiter.decide(_ask(number, limits))
        took.append((time.perf_counter() - began) * 1e6)
        _must_pass(decision.allowed)
    link.client.flushdb()
    link.close()
    _add(report, name, decisions / (sum(took[100:]) / 1e6), took[100:])


def _add_batched(report: Report, url: str, decisions: int, name: str, limits: Limits) -> None:
    took: list[float] = []
    local: list[bool] = []

    async def ask_on(web: WebLimits, numbers: Callable[[], int]) -> None:
        while (number := numbers()) < decisions:
            began = time.perf_counter()
            decision = await web.decide(_ask(number, limits))
            took.append((time.perf_counter() - began) * 1e6)
            _must_pass(decision.allowed)
            local.append(decision.is_local)

    async def load() -> float:
        web = WebLimits(url, Fallback("open", LocalLimiter()))
        await web.decide(_ask(0, limits))  # connects, loads the script
        numbers = iter(range(1, 10**12))
        began = time.perf_counter()
        await asyncio.gather(*(ask_on(web, lambda: next(numbers)) for _ in range(AT_A_TIME)))
        took_s = time.perf_counter() - began
        await web.close()
        return len(took) / took_s

    per_s = asyncio.run(load())
    if any(local):
        report.notes.append(f"{name}: {sum(local)} of {len(local)} were decided without Redis: it took over 250 ms")
    link = RedisLink(url)
    link.client.flushdb()
    link.close()
    _add(report, name, per_s, took)


def _must_pass(allowed: bool) -> None:
    if not allowed:
        print("bench: a decision was refused; the figures would be of refusals", file=sys.stderr)
        raise RuntimeError("refused")
