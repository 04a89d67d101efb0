"""
`?wait=N`: an answer as soon as there is something new, and never later than N seconds.

A waiter subscribes first, then reads, so nothing falls between the two; it re-reads slowly in case a wake-up was lost.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Receive

from core.errors import Unavailable
from core.ids import KeyId, PublicId
from core.tasks.model import Stamp
from core.tasks.status import Status, StatusKeys
from web import deadline
from web.status import Statuses
from web.wakeups import Wake, WakeUps

MOST_WAITERS = 1000
REREAD_S = 2.0  # a lost wake-up costs this, and the second that a copy may be old
REREAD_DEAF_S = 0.5  # with Redis away, when nobody wakes us
DEAF_READS_PER_S = 200  # of all waiters together: the database must not pay for the outage of Redis


@dataclass(frozen=True, slots=True)
class Conditions:
    """What If-None-Match says; ETags that are not ours match nothing."""

    stamps: frozenset[Stamp] = frozenset()
    any: bool = False

    @classmethod
    def of(cls, header: bytes | None) -> Conditions:
        if header is None:
            return NO_CONDITIONS
        text = header.decode("latin-1")
        if text.strip() == "*":
            return cls(any=True)
        stamps = (Stamp.from_etag(part) for part in text.split(","))
        return cls(frozenset(stamp for stamp in stamps if stamp is not None))

    @property
    def newest(self) -> Stamp | None:
        return max(self.stamps, default=None)

    def match(self, stamp: Stamp) -> bool:
        return self.any or stamp in self.stamps


NO_CONDITIONS = Conditions()


class Waiting:
    """The waiters of this process; their number is bounded."""

    def __init__(self, statuses: Statuses, wakeups: WakeUps, keys: StatusKeys, *, most: int = MOST_WAITERS) -> None:
        self._statuses = statuses
        self._wakeups = wakeups
        self._keys = keys
        self._most = most
        self._number = 0
        self._draining = False

    @property
    def number(self) -> int:
        return self._number

    def drain(self) -> None:
        """Answer all who wait with what is there, now and from now on."""
        self._draining = True
        self._wakeups.ring_all()

    async def read(
        self, public_id: str, *, owner: KeyId, conditions: Conditions, wait_s: float, receive: Receive
    ) -> Status:
        """
        The status at the next version (with conditions) or at the final state (without), else as it is at the end.

        Raises:
            TaskNotFound: no such task, or another owner's.
            Unavailable: the row had to be read and could not be, or too many wait already.
        """
        until = time.monotonic() + wait_s
        status = await self._statuses.read(public_id, owner=owner, at_least=conditions.newest)
        if _is_news(status, conditions) or self._draining:
            return status
        if self._number >= self._most:
            raise Unavailable("too many requests wait already; poll without `wait`", retry_after_s=1)
        self._number += 1
        gone = asyncio.create_task(_gone(receive))
        try:
            async with self._wakeups.follow(self._keys.of(PublicId(public_id))) as wake:
                return await self._follow(status, conditions, until, wake=wake, gone=gone)
        finally:
            self._number -= 1
            gone.cancel()

    async def _follow(
        self,
        status: Status,
        conditions: Conditions,
        until: float,
        *,
        wake: Wake,
        gone: asyncio.Task[None],
    ) -> Status:
        is_first = True
        while True:
            at_least = max(stamp for stamp in (status.stamp, wake.minimum, conditions.newest) if stamp is not None)
            deadline.begin()
            # The first read sees every change whose wake-up was sent before we listened.
            status = await self._statuses.read(
                status.public_id, owner=status.owner_id, at_least=at_least, is_fresh=is_first
            )
            is_first = False
            left = until - time.monotonic()
            if _is_news(status, conditions) or left <= 0 or self._draining or gone.done():
                return status
            heard = asyncio.ensure_future(wake.heard())
            try:
                await asyncio.wait(
                    {heard, gone}, timeout=min(left, self._pause_s()), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                heard.cancel()

    def _pause_s(self) -> float:
        if self._wakeups.is_connected:
            return REREAD_S
        return max(REREAD_DEAF_S, self._number / DEAF_READS_PER_S)


def _is_news(status: Status, conditions: Conditions) -> bool:
    """A final state, since nothing comes after it; else, with conditions, what the caller has not seen."""
    return status.is_final or (bool(conditions.stamps) and not conditions.match(status.stamp))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
