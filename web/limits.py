"""
The limiter on the event loop: what many requests ask while one call is out goes with the next, in one Lua call.

A request waits at most 250 ms for Redis, then this process decides alone, as for the synchronous `Limiter`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

from core.access.limits import script as limit_script
from core.access.limits.limiter import Fallback
from core.access.limits.model import ALLOWED, Ask, Decision
from core.connections import REDIS_PAUSE_S, REDIS_TIMEOUT_S
from web.answers import Headers
from web.redis_connection import FAILURES, RedisConnection

MOST = 16  # asks in one call: a millisecond of Redis, in which nobody else is served
LOOK_AGAIN_S = 0.03  # after Redis's time: enough for a loop that was busy to read what came meanwhile
MOST_WAITING = 4096  # beyond it Redis is too slow for what comes in


@dataclass(slots=True)
class _Waiting:
    ask: Ask
    decided: asyncio.Future[Decision | None]


class WebLimits:
    """
    Used on one event loop.

    Args:
        url: of Redis; None: as if it were away for good.
    """

    def __init__(self, url: str | None, fallback: Fallback) -> None:
        self._connection = None if url is None else RedisConnection(url)
        self._fallback = fallback
        self._waiting: deque[_Waiting] = deque()
        self._asked: list[_Waiting] = []  # of the call that is out
        self._pump: asyncio.Task[None] | None = None
        self._resume_at = 0.0

    async def decide(self, ask: Ask) -> Decision:
        """Take everything the ask wants, or nothing; never raises for an absent Redis."""
        if ask.is_empty:
            return ALLOWED
        decision = await self._ask_redis(ask)
        if decision is None:
            return self._fallback.decide(ask)
        return decision

    async def open(self) -> None:
        """Connect, so that the first burst of requests need not wait for that. Redis away: it is tried again then."""
        if self._connection is not None:
            with suppress(*FAILURES, redis.RedisError):
                await self._connection.call("PING")

    async def close(self) -> None:
        """Whoever waits still is answered by the policy."""
        self._resume_at = float("inf")
        if self._pump is not None:
            self._pump.cancel()
        self._give_up()  # here too: a task that is cancelled before its first step runs no `finally`
        if self._connection is not None:
            await self._connection.close()

    async def _ask_redis(self, ask: Ask) -> Decision | None:
        if self._connection is None or time.monotonic() < self._resume_at or len(self._waiting) >= MOST_WAITING:
            return None
        waiting = _Waiting(ask, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._pump is None:
            self._pump = asyncio.create_task(self._run(self._connection))
        return await waiting.decided

    async def _run(self, connection: RedisConnection) -> None:
        try:
            while self._waiting:
                batch = self._asked = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                decisions = await self._read(connection, batch)
                for place, waiting in enumerate(batch):
                    _tell(waiting, None if decisions is None else decisions[place])
        finally:  # cancelled, or a fault of ours: nobody may wait for ever
            self._pump = None
            self._give_up()

    def _give_up(self) -> None:
        for waiting in (*self._asked, *self._waiting):
            _tell(waiting, None)
        self._asked = []
        self._waiting.clear()

    async def _read(self, connection: RedisConnection, batch: list[_Waiting]) -> list[Decision] | None:
        if time.monotonic() < self._resume_at:
            return None
        asks = [waiting.ask for waiting in batch]
        keys, arguments = limit_script.call_of(asks)
        script = limit_script.DECIDE
        try:
            try:
                answer = await self._call(connection, "EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                answer = await self._call(connection, "EVAL", script.text, len(keys), *keys, *arguments)
        except (*FAILURES, redis.RedisError):
            self._resume_at = time.monotonic() + REDIS_PAUSE_S
            return None
        self._fallback.redis_answered()
        return limit_script.decisions_from(asks, answer)

    async def _call(self, connection: RedisConnection, *command: Any) -> Any:
        """
        A command and its answer, within the time that Redis has.

        It is Redis's time and not ours: a loop that was busy for so long finds the answer waiting. To take that for an
        absent Redis would let the same requests be counted twice, there and here.

        Raises:
            FAILURES, redis.ResponseError: as `RedisConnection.call`.
        """
        try:
            if not connection.is_connected:
                await connection.connect()
            await connection.send(*command)
            try:
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    return await connection.read()
            except TimeoutError:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    return await connection.read()
        except redis.ResponseError:
            raise
        except BaseException:  # an answer may still be on its way: the connection is out of step
            await connection.close()
            raise


def _tell(waiting: _Waiting, decision: Decision | None) -> None:
    if not waiting.decided.done():  # done: its request was cancelled
        waiting.decided.set_result(decision)


def headers(decision: Decision) -> Headers:
    """
    `RateLimit-Policy`, `RateLimit` and, on a refusal, `Retry-After`: the figures the decision went by.

    `"rpm";q=100;w=60, "concurrency";q=8;qu="concurrent-requests"` and `"rpm";r=42;t=30, "concurrency";r=3`.

    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """
    lines: Headers = []
    if decision.states:
        policy = ", ".join(
            f'"{s.name}";q={s.limit};w={s.window_s}'
            if s.window_s
            else f'"{s.name}";q={s.limit};qu="concurrent-requests"'
            for s in decision.states
        )
        left = ", ".join(
            f'"{s.name}";r={s.remaining};t={s.reset_s}' if s.window_s else f'"{s.name}";r={s.remaining}'
            for s in decision.states
        )
        lines += [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]
    if decision.retry_after_s:
        lines.append((b"retry-after", b"%d" % decision.retry_after_s))
    return lines
