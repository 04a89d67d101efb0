"""One connection to Redis on the event loop, with bounded waits: what batches and subscriptions are built on."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from core.connections import REDIS_TIMEOUT_S

FAILURES = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
    OSError,
    TimeoutError,
)
"""What an absent, hanging or refusing Redis looks like. `TimeoutError` is also asyncio's."""


class RedisConnection:
    """
    A connection used by one owner, who keeps answers and commands in step.

    `call` is a command and its answer; `send` and `read` are for a subscription, where the two are not paired.
    """

    def __init__(self, url: str) -> None:
        # The pool is only the parser of the URL; it never holds a connection.
        self._pool: ConnectionPool = ConnectionPool.from_url(url, protocol=2)  # pyright: ignore[reportUnknownMemberType] (partly typed)
        self._connection: AbstractConnection | None = None

    async def connect(self, timeout_s: float = REDIS_TIMEOUT_S) -> None:
        # redis-py 8.1 leaves these two without annotations.
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py 8.1
        self._connection = connection
        async with asyncio.timeout(timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py 8.1

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def call(self, *command: Any, timeout_s: float = REDIS_TIMEOUT_S) -> Any:
        """
        Send a command and wait for its answer; connects when necessary.

        Raises:
            redis.ResponseError: Redis refused the command.
            FAILURES: no answer; the connection was dropped.
        """
        try:
            if self._connection is None:
                await self.connect(timeout_s)
            async with asyncio.timeout(timeout_s):
                await self.send(*command)
                return await self.read()
        except redis.ResponseError:
            raise
        except BaseException:  # a cancelled caller leaves an answer on its way: the connection is out of step
            await self.close()
            raise

    async def send(self, *command: Any) -> None:
        await self._open.send_command(*command, check_health=False)

    async def read(self) -> Any:
        """The next answer or message; waits as long as it takes."""
        # redis-py 8.1 leaves the answer's type open.
        answer: Any = await self._open.read_response(timeout=math.inf, disconnect_on_error=False)  # pyright: ignore[reportUnknownVariableType]
        return answer  # pyright: ignore[reportUnknownVariableType]

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    @property
    def _open(self) -> AbstractConnection:
        if self._connection is None:
            raise redis.ConnectionError("the connection was closed")
        return self._connection
