"""
One subscription of the process to Redis for everybody who waits for a task, and for changes of keys.

A wake-up may be lost (pub/sub promises nothing): who waits re-reads now and then. After a lost connection everybody is
woken and told so, because messages may have passed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import cast

import redis

from core.tasks.model import Stamp
from web.redis_connection import FAILURES, RedisConnection

logger = logging.getLogger(__name__)

CONNECT_S = 1.0
CONFIRM_S = 0.25
PING_EVERY_S = 1.0
SILENCE_S = 2.5  # two pings unanswered: the server hangs
PAUSE_S = (0.05, 1.0)  # between two tries to connect: first, longest
_WARN_EVERY_S = 60


class Wake:
    """What one waiter hears: `minimum` is the newest version it was told of."""

    def __init__(self) -> None:
        self.minimum: Stamp | None = None
        self._rung = asyncio.Event()

    def ring(self, stamp: Stamp | None) -> None:
        if stamp is not None and (self.minimum is None or stamp > self.minimum):
            self.minimum = stamp
        self._rung.set()

    async def heard(self) -> None:
        """Return when it was rung since the last return."""
        await self._rung.wait()
        self._rung.clear()


class WakeUps:
    """
    Args:
        url: the Redis that carries the events.
        standing: channels that are always heard, and who is called with each message.
        on_gap: called when the connection is there again: messages may have been lost.
        is_off: never connect; nothing is heard (HEADRACE_CACHE=memory).
    """

    def __init__(
        self,
        url: str,
        *,
        standing: dict[str, Callable[[bytes], None]],
        on_gap: Callable[[], None],
        is_off: bool = False,
    ) -> None:
        self._is_off = is_off
        self._url = url
        self._connection = RedisConnection(url)
        self._standing = standing
        self._on_gap = on_gap
        self._waiters: dict[str, set[Wake]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._sent: set[str] = set()
        self._unconfirmed: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._heard_at = 0.0
        self._connected = False
        self._warned_at = float("-inf")
        self._runner: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def waiters(self) -> int:
        return sum(len(waiters) for waiters in self._waiters.values())

    def start(self) -> None:
        if self._is_off:
            return
        self._runner = asyncio.create_task(self._run(), name="wakeups")
        self._runner.add_done_callback(_log_death)

    async def close(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await self._connection.close()

    def ring_all(self) -> None:
        """Wake everybody, e.g. because the process stops."""
        for waiters in self._waiters.values():
            for wake in waiters:
                wake.ring(None)

    @asynccontextmanager
    async def follow(self, channel: str) -> AsyncGenerator[Wake]:
        """
        Hear the channel inside the block; on entering, the subscription is in place, unless Redis is away.

        A read inside the block sees every change whose wake-up was sent before the block.
        """
        wake = Wake()
        self._waiters.setdefault(channel, set()).add(wake)
        try:
            await self._subscribed(channel)
            yield wake
        finally:
            waiters = self._waiters[channel]
            waiters.discard(wake)
            if not waiters:
                del self._waiters[channel]
                self._confirmed.pop(channel, None)
                self._changed.set()

    async def _subscribed(self, channel: str) -> None:
        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            confirmed = self._confirmed[channel] = asyncio.Event()
            self._changed.set()
        if not self._connected:
            return
        try:
            async with asyncio.timeout(CONFIRM_S):
                await confirmed.wait()
        except TimeoutError:
            return  # not heard then: the waiter re-reads

    async def _run(self) -> None:
        pause_s = PAUSE_S[0]
        while True:
            try:
                await self._connection.connect(CONNECT_S)
                pause_s = PAUSE_S[0]
                await self._listen()
            except (*FAILURES, redis.RedisError) as error:
                self._lose(error)
            finally:
                self._connected = False
                await self._connection.close()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            pause_s = min(pause_s * 2, PAUSE_S[1])

    async def _listen(self) -> None:
        """One life of the connection; ends by one of FAILURES."""
        self._sent.clear()
        self._unconfirmed.clear()
        for confirmed in self._confirmed.values():
            confirmed.clear()
        self._changed.set()
        self._heard_at = time.monotonic()
        parts = [asyncio.create_task(part()) for part in (self._hear, self._subscribe, self._ping)]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _hear(self) -> None:
        while True:
            message: object = await self._connection.read()
            self._heard_at = time.monotonic()
            if not isinstance(message, list):
                continue
            kind, channel, text = (*cast("list[object]", message), None, None, None)[:3]
            if not isinstance(channel, bytes):
                continue
            if kind == b"subscribe":
                self._confirm(channel.decode())
            elif kind == b"message" and isinstance(text, bytes):
                self._deliver(channel.decode(), text)

    async def _subscribe(self) -> None:
        """Bring the subscriptions in line with who waits, all changes of a moment in one command."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._waiters.keys() | self._standing.keys()
            added, removed = wanted - self._sent, self._sent - wanted
            self._sent = set(wanted)
            if removed:
                await self._connection.send("UNSUBSCRIBE", *removed)
            if added:
                self._unconfirmed.update(added)
                await self._connection.send("SUBSCRIBE", *added)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            if time.monotonic() - self._heard_at > SILENCE_S:
                raise redis.TimeoutError("no answer to a ping")
            await self._connection.send("PING")

    def _deliver(self, channel: str, text: bytes) -> None:
        standing = self._standing.get(channel)
        if standing is not None:
            standing(text)
            return
        stamp = Stamp.from_etag(text.decode("ascii", "replace"))
        for wake in self._waiters.get(channel, ()):
            wake.ring(stamp)

    def _confirm(self, channel: str) -> None:
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] > 0:  # subscribed again meanwhile: the last confirmation counts
            return
        del self._unconfirmed[channel]
        confirmed = self._confirmed.get(channel)
        if confirmed is not None:
            confirmed.set()
        if not self._connected and self._standing.keys() <= self._sent - self._unconfirmed.keys():
            self._connected = True
            self._on_gap()
            self.ring_all()

    def _lose(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_at > _WARN_EVERY_S:
            self._warned_at = now
            logger.warning("wake-ups are not heard; waiting by reading", extra={"reason": type(error).__name__})


def _log_death(runner: asyncio.Task[None]) -> None:
    """What is no outage is a mistake of ours: waiters go on by reading."""
    if not runner.cancelled() and (error := runner.exception()) is not None:
        logger.error("wake-ups ended", exc_info=error)
