"""
The whole door in one process: address, ban, IP filter, key, its filter, and all its limits in Redis.

The loop is the web process's own kind, the arrivals come from another process at a constant rate (`bench/pace.py`), and
a request's latency counts from the time it was due: a loop that stalls cannot hide those that would have come.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import cast

import uvloop
from starlette.types import Scope

from bench.figures import Report, percentile
from bench.system import CHECKOUT, plain_redis
from core.access.limits.limiter import Fallback
from core.access.limits.local_limiter import LocalLimiter
from core.app import App
from core.errors import LimitsUnavailable
from core.ids import new_public_id, new_task_id
from core.tasks.model import NewTask
from web.app import build_door
from web.door import Door
from web.landing import Landing
from web.limits import WebLimits
from web.threads import Threads

RATE = 2_000
ALONE = 1_000
ROUTE = "/v1/tasks"
CHAT = '{"model":"bench","messages":[{"role":"user","content":"How high is the Zugspitze?"}],"max_tokens":200}'
_AHEAD_S = 0.5  # the pacing process must have started


def measure(app: App, clear_keys: Sequence[str], report: Report, *, seconds: int) -> None:
    """
    Args:
        clear_keys: known already, with limits of all kinds.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(app, clear_keys, report, seconds))


async def _measure(app: App, clear_keys: Sequence[str], report: Report, seconds: int) -> None:
    url = app.settings.redis_url
    assert url is not None
    landing = Landing()
    threads, strangers = Threads(landing), Threads(landing, size=2, waiting=64)
    limits = WebLimits(url.get_secret_value(), Fallback("closed", LocalLimiter()))
    door = build_door(app, limits, threads, strangers)
    visits = itertools.cycle([_scope(key, number) for number, key in enumerate(clear_keys)])
    try:
        for _ in range(len(clear_keys)):
            await _pass(door, next(visits))
        gc.collect()
        gc.freeze()  # as the web process does
        await _alone(app, door, visits, report)
        arrived, _ = await _at_rate(_nothing, seconds)
        report.add("door_pace_p50_us", 1e6 * percentile(arrived, 0.5))
        report.add("door_pace_p99_us", 1e6 * percentile(arrived, 0.99))
        calls = _scripts_called(app)
        took, without_redis = await _at_rate(lambda: _pass(door, next(visits)), seconds)
        report.add("door_redis_calls_per_request", (_scripts_called(app) - calls) / len(took))
        report.add("door_p50_us", 1e6 * percentile(took, 0.5))
        report.add("door_p99_us", 1e6 * percentile(took, 0.99))
        report.add("door_p999_us", 1e6 * percentile(took, 0.999))
        if without_redis:
            report.notes.append(f"door: {without_redis} of {len(took)} were refused: Redis took over 250 ms")
    finally:
        gc.unfreeze()
        await limits.close()
        threads.close()
        strangers.close()


async def _alone(app: App, door: Door, visits: itertools.cycle[Scope], report: Report) -> None:
    """One after another: nobody shares a call with anybody."""
    calls, took = _scripts_called(app), list[float]()
    for _ in range(ALONE):
        began = time.perf_counter()
        await _pass(door, next(visits))
        took.append(time.perf_counter() - began)
    # The statistics of the caches are a script too, a few calls in five seconds: hence 1.02 as the target.
    report.add("door_redis_calls_per_request_alone", round((_scripts_called(app) - calls) / ALONE, 2))
    report.add("door_alone_p50_us", 1e6 * percentile(took, 0.5))
    report.add("door_alone_p99_us", 1e6 * percentile(took, 0.99))


async def _at_rate(work: Callable[[], Coroutine[None, None, None]], seconds: int) -> tuple[list[float], int]:
    """Seconds of each request, from when it was due; how many of them Redis did not answer in time."""
    loop = asyncio.get_running_loop()
    total = RATE * seconds
    took: list[float] = []
    failed: list[BaseException] = []
    without_redis = itertools.count()
    running: set[asyncio.Task[None]] = set()
    done = loop.create_future()
    start = time.monotonic() + _AHEAD_S
    numbers = itertools.count()

    async def request(due: float) -> None:
        try:
            await work()
        except LimitsUnavailable:
            next(without_redis)
        took.append(time.monotonic() - due)

    def ended(task: asyncio.Task[None]) -> None:
        running.discard(task)
        if (error := task.exception()) is not None:
            failed.append(error)
        if len(took) + len(failed) == total and not done.done():
            done.set_result(None)

    pacing = subprocess.Popen(
        [sys.executable, "-m", "bench.pace", str(RATE), str(total), repr(start)], cwd=CHECKOUT, stdout=subprocess.PIPE
    )
    assert pacing.stdout is not None
    stream = pacing.stdout.fileno()

    def arrived() -> None:
        for _ in os.read(stream, 65_536):
            task = loop.create_task(request(start + next(numbers) / RATE))
            running.add(task)
            task.add_done_callback(ended)

    loop.add_reader(stream, arrived)
    try:
        await asyncio.wait_for(done, seconds + 30)
    finally:
        loop.remove_reader(stream)
        pacing.kill()
        pacing.communicate()
    if failed:
        raise RuntimeError(f"{len(failed)} of {total} requests did not pass the door") from failed[0]
    return took, next(without_redis)


async def _nothing() -> None:
    """What the arrivals themselves cost: the machine, the pacing process, the loop."""


async def _pass(door: Door, scope: Scope) -> None:
    visitor = await door.enter(scope)
    task = NewTask(
        id=new_task_id(), public_id=new_public_id(), owner_id=visitor.owner, type="chat.completion", input_json=CHAT
    )
    await door.admit(visitor, ROUTE, tasks=[task])


def _scope(clear_key: str, number: int) -> Scope:
    """As the server makes it; each key comes from an address of its own."""
    headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", b"Bearer " + clear_key.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"90"),
    ]
    return {"type": "http", "headers": headers, "client": (f"192.0.2.{number % 250 + 1}", 40_000)}


def _scripts_called(app: App) -> int:
    """How often a client called a script; what scripts call themselves is counted under other names."""
    with plain_redis(app.settings) as client:
        told = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    return sum(told.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))
