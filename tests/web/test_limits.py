"""The limiter on an event loop, and how its decisions look over HTTP."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import orjson
import pytest
import redis

from core.access.limits.limiter import CLOSED, Fallback
from core.access.limits.local_limiter import LocalLimiter, Share
from core.access.limits.model import Ask, Decision, RuleState, Slots, Window
from core.access.limits.refusal import refusal_of
from core.embedded import Servers
from core.errors import LimitsUnavailable, LimitTooSmall, RateLimited
from web.limits import WebLimits, headers
from web.problems import problem_of


@pytest.fixture
def url(servers: Servers) -> Generator[str]:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
        yield servers.redis_url
        client.flushdb()


@asynccontextmanager
async def opened(url: str | None, policy: str = "closed", processes: int = 2) -> AsyncGenerator[WebLimits]:
    limits = WebLimits(url, Fallback(policy, LocalLimiter(lambda: Share(processes, 0))))
    try:
        yield limits
    finally:
        await limits.close()


def rpm(limit: int, key: str = "k") -> Ask:
    return Ask((Window("rpm", key, limit, 60),))


async def passed(limits: WebLimits, ask: Callable[[int], Ask], times: int) -> int:
    decisions: list[Awaitable[Decision]] = [limits.decide(ask(n)) for n in range(times)]
    return sum(decision.allowed for decision in await asyncio.gather(*decisions))


@contextmanager
def hanging_server() -> Generator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_parallel_requests_pass_exactly_up_to_the_limit(url: str) -> None:
    async def run() -> list[int]:
        async with opened(url) as limits:
            return [await passed(limits, lambda _, key=f"k{n}": rpm(50, key), 200) for n in range(20)]  # type: ignore[misc]

    assert asyncio.run(run()) == [50] * 20


def test_each_gets_the_decision_to_its_own_ask(url: str) -> None:
    async def run() -> list[Decision]:
        async with opened(url) as limits:
            return await asyncio.gather(*(limits.decide(rpm(n, f"k{n}")) for n in range(300)))

    decisions = asyncio.run(run())

    assert [decision.allowed for decision in decisions] == [False] + [True] * 299
    assert [decision.states[0].limit for decision in decisions] == list(range(300))


def test_a_script_that_redis_forgot_is_sent_again(url: str) -> None:
    async def run() -> int:
        async with opened(url) as limits:
            assert (await limits.decide(rpm(3))).allowed
            with redis.Redis.from_url(url) as client:
                client.script_flush()
            return await passed(limits, lambda _: rpm(3), 10)

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize(("policy", "expected"), [("share", 5), ("open", 40), ("closed", 0)])
def test_a_hanging_redis_is_waited_for_a_quarter_second_and_then_the_policy_decides(policy: str, expected: int) -> None:
    async def run(url: str) -> tuple[int, float]:
        async with opened(url, policy) as limits:
            began = time.monotonic()
            count = await passed(limits, lambda _: rpm(10), 40)
            return count, time.monotonic() - began

    with hanging_server() as url:
        count, took_s = asyncio.run(run(url))

    assert count == expected
    assert took_s < 1.0


def test_nobody_waits_for_a_limiter_that_is_closed_meanwhile() -> None:
    async def run(url: str) -> bool:
        async with opened(url, "open") as limits:
            waiting = asyncio.create_task(limits.decide(rpm(1)))
            await asyncio.sleep(0)
            await limits.close()
            return (await asyncio.wait_for(waiting, 2)).allowed

    with hanging_server() as url:
        assert asyncio.run(run(url))


def test_redis_decides_again_when_it_is_back(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[bool]:
        fallback = Fallback("share", LocalLimiter(lambda: Share(2, 0)))
        with hanging_server() as hanging:
            away, there = WebLimits(hanging, fallback), WebLimits(url, fallback)
            found = [(await limits.decide(rpm(10))).is_local for limits in (away, away, there, there)]
            await away.close()
            await there.close()
            return found

    assert asyncio.run(run()) == [True, True, False, False]
    assert [record.getMessage() for record in caplog.records if record.name == "core.access.limits.limiter"] == [
        "redis does not decide limits now",
        "redis decides limits again",
    ]


def test_without_redis_from_the_start_the_policy_decides() -> None:
    async def run() -> int:
        async with opened(None, "share", processes=1) as limits:
            return await passed(limits, lambda _: rpm(7), 20)

    assert asyncio.run(run()) == 7


def test_headers_tell_what_the_decision_used(url: str) -> None:
    async def run() -> Decision:
        async with opened(url) as limits:
            ask = Ask((*rpm(100).windows, Window("rpd", "k", 1000, 86_400)), None, Slots("c", 8, ("a",)))
            return await limits.decide(ask)

    decision = asyncio.run(run())
    lines = dict(headers(decision))

    minute, day, _ = decision.states
    assert lines[b"ratelimit-policy"] == (
        b'"rpm";q=100;w=60, "rpd";q=1000;w=86400, "concurrency";q=8;qu="concurrent-requests"'
    )
    assert lines[b"ratelimit"] == (
        f'"rpm";r=99;t={minute.reset_s}, "rpd";r=999;t={day.reset_s}, "concurrency";r=7'.encode()
    )
    assert b"retry-after" not in lines
    assert 1 <= minute.reset_s <= 60


def test_a_refusal_is_a_429_with_the_figures_of_the_decision() -> None:
    states = (RuleState("ip", 6000, 5000, 30, 60), RuleState("rpm", 10, 0, 30, 60))
    decision = Decision(False, "rpm", 12, states, at=1_790_000_040.25)
    error = refusal_of(decision)

    answer = problem_of(error)

    assert isinstance(error, RateLimited)
    assert answer.status_code == 429
    document = orjson.loads(answer.body)
    assert document["code"] == "rate_limited"
    assert (document["rule"], document["limit"], document["remaining"]) == ("rpm", 10, 0)
    assert document["reset_at"] == "2026-09-21T14:14:31Z"
    assert (b"retry-after", b"12") in answer.raw_headers
    assert (b"ratelimit", b'"ip";r=5000;t=30, "rpm";r=0;t=30') in answer.raw_headers


def test_what_can_never_pass_is_no_429() -> None:
    never = Decision(False, "tpm", 0, (RuleState("tpm", 100, 100, 0, 60),), can_succeed=False)

    assert isinstance(refusal_of(never), LimitTooSmall)
    assert problem_of(refusal_of(never)).status_code == 422
    assert isinstance(refusal_of(CLOSED), LimitsUnavailable)
    assert problem_of(refusal_of(CLOSED)).status_code == 503
