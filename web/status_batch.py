"""
Copies of statuses from Redis, many at a time: all that is asked for while one call is out goes with the next.

A call per read would spend more time in the client than in Redis. Requests that ask for the same task share an answer,
and never one whose call was sent before they asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time

import redis
from redis.exceptions import NoScriptError

from core.connections import REDIS_PAUSE_S
from core.ids import PublicId
from core.tasks.status import MEMORY_ENTRY_BYTES, Status, StatusKeys, decode
from web.redis_connection import FAILURES, RedisConnection

logger = logging.getLogger(__name__)

MOST = 128  # of at most 256 KiB each
_WARN_EVERY_S = 60

# Junk of another type is a miss, not an error for the whole batch; a copy too large for the loop is a miss as well.
_GET = """
local found = {}
for i, key in ipairs(KEYS) do
  local size = redis.pcall('STRLEN', key)
  found[i] = type(size) == 'number' and size > 0 and size <= tonumber(ARGV[1]) and redis.call('GET', key)
end
return found
"""
_GET_SHA = hashlib.sha1(_GET.encode(), usedforsecurity=False).hexdigest()


class StatusBatch:
    """
    Reads copies; Redis away, and everything else that can go wrong, is a miss.

    Args:
        is_off: never connect; everything is a miss (HEADRACE_CACHE=memory).
    """

    def __init__(self, url: str, keys: StatusKeys, *, is_off: bool = False) -> None:
        self._is_off = is_off
        self._connection = RedisConnection(url)
        self._keys = keys
        self._wanted: dict[PublicId, asyncio.Future[Status | None]] = {}
        self._pump: asyncio.Task[None] | None = None
        self._resume_at = 0.0
        self._warned_at = float("-inf")

    @property
    def is_away(self) -> bool:
        """A call failed in the last half second, or none is made."""
        return self._is_off or time.monotonic() < self._resume_at

    async def get(self, public_id: PublicId) -> Status | None:
        """The copy that Redis has at some moment after this call; None for none, and for one over 256 KiB."""
        if self.is_away:
            return None
        future = self._wanted.get(public_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._wanted[public_id] = future
            if self._pump is None:
                self._pump = asyncio.create_task(self._run())
        # Shielded: a caller that is cancelled must not take the answer from the others.
        return await asyncio.shield(future)

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        await self._connection.close()

    async def _run(self) -> None:
        try:
            while self._wanted:
                wanted = [(public_id, self._wanted[public_id]) for public_id in list(self._wanted)[:MOST]]
                for public_id, _ in wanted:
                    del self._wanted[public_id]
                values = await self._read([public_id for public_id, _ in wanted])
                for (public_id, future), value in zip(wanted, values, strict=True):
                    future.set_result(decode(public_id, value))
        finally:
            self._pump = None

    async def _read(self, public_ids: list[PublicId]) -> list[bytes | None]:
        nothing: list[bytes | None] = [None] * len(public_ids)
        if self.is_away:
            return nothing
        arguments = (len(public_ids), *map(self._keys.of, public_ids), MEMORY_ENTRY_BYTES)
        try:
            try:
                values: list[bytes | None] = await self._connection.call("EVALSHA", _GET_SHA, *arguments)
            except NoScriptError:
                values = await self._connection.call("EVAL", _GET, *arguments)
        except (*FAILURES, redis.RedisError) as error:
            self._trip(error)
            return nothing
        return values

    def _trip(self, error: Exception) -> None:
        now = time.monotonic()
        self._resume_at = now + REDIS_PAUSE_S
        if now - self._warned_at > _WARN_EVERY_S:
            self._warned_at = now
            logger.warning("redis is away; statuses are read from rows", extra={"reason": type(error).__name__})
