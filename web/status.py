"""
The status of a task, read on the event loop: the twin of `core.tasks.status.StatusReader`, sharing its pure code.

Final rows from memory, anything else from Redis in batches, and what neither has by the synchronous reader in a
thread, one reading per task at a time. Beside law 4's bound (at most a second stale, never older than the caller's
ETag) this process never answers with an older state than it answered before, for as long as it remembers.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from core.errors import StoreUnavailable, TaskNotFound
from core.ids import KeyId, PublicId, is_public_id
from core.tasks.model import Stamp, Task
from core.tasks.status import Status, StatusReader, status_of
from web import deadline
from web.status_batch import StatusBatch
from web.threads import Threads

REMEMBERED = 20_000  # newest stamps of live tasks; about 6 MB
SHARED_S = 0.25  # a reading of a row serves who comes this much later: without Redis, four statements a second


@dataclass(slots=True)
class _Flight:
    """One reading of a row, for all who come while it is young."""

    began: float
    at_least: Stamp | None
    reading: asyncio.Task[Status | None]

    def serves(self, at_least: Stamp | None) -> bool:
        """Whether a caller who needs `at_least` may share it: it would get neither less nor something old."""
        if time.monotonic() - self.began >= SHARED_S:
            return False
        if not self.reading.done():
            return at_least is None or (self.at_least is not None and self.at_least >= at_least)
        if self.reading.cancelled() or self.reading.exception() is not None:
            return False
        status = self.reading.result()
        return status is not None and (at_least is None or status.stamp >= at_least)


class Statuses:
    """
    Args:
        reader: memory, Redis and row, synchronously.
    """

    def __init__(self, reader: StatusReader, batch: StatusBatch, threads: Threads) -> None:
        self._reader = reader
        self._counters = reader.counters
        self._batch = batch
        self._threads = threads
        self._flights: dict[PublicId, _Flight] = {}
        self._seen: OrderedDict[PublicId, Stamp] = OrderedDict()

    async def read(
        self, public_id: str, *, owner: KeyId, at_least: Stamp | None = None, is_fresh: bool = False
    ) -> Status:
        """
        The status, not older than `at_least` where the row is not.

        Args:
            is_fresh: a row that has to be read is read after this call; a reading under way will not do.

        Raises:
            TaskNotFound: no such task, or another owner's.
            Unavailable: the row had to be read and could not be.
        """
        status = None
        if is_public_id(public_id):
            status = await self._read(PublicId(public_id), at_least, is_fresh=is_fresh)
        if status is None or status.owner_id != owner:
            raise TaskNotFound(f"no task {public_id[:60]!r}")
        return status

    def learn(self, task: Task) -> None:
        """This process changed the task: nothing older is answered from here."""
        self._remember(status_of(task))

    async def _read(self, public_id: PublicId, at_least: Stamp | None, *, is_fresh: bool) -> Status | None:
        status = self._reader.memory.get(public_id)
        if status is not None:
            self._counters.memory.add()
            return status
        seen = self._seen.get(public_id)
        if seen is not None and (at_least is None or seen > at_least):
            at_least = seen
        status = await self._batch.get(public_id)
        if status is None or (at_least is not None and status.stamp < at_least):
            status = await self._read_row(public_id, at_least, is_fresh=is_fresh)
        else:
            self._counters.redis.add()
        if status is not None:
            self._remember(status)
        return status

    async def _read_row(self, public_id: PublicId, at_least: Stamp | None, *, is_fresh: bool) -> Status | None:
        flight = self._flights.get(public_id)
        if flight is None or is_fresh or not flight.serves(at_least):
            flight = self._fly(public_id, at_least)
        else:
            self._counters.coalesced.add()
        # A caller that leaves, or whose own time is up, does not take the answer from the others.
        done, _ = await asyncio.wait({flight.reading}, timeout=min(deadline.left_s(), deadline.ANSWER_S))
        if not done:
            raise StoreUnavailable("the database did not answer in time; the task was not read")
        return flight.reading.result()

    def _fly(self, public_id: PublicId, at_least: Stamp | None) -> _Flight:
        async def read() -> Status | None:
            deadline.begin()  # not what the first who asks has left: others will share it
            return await self._threads.run(
                lambda: self._reader.read(public_id, at_least=at_least), failure="the task was not read"
            )

        reading = asyncio.create_task(read())
        reading.add_done_callback(_look_at)
        flight = _Flight(time.monotonic(), at_least, reading)
        self._flights[public_id] = flight

        asyncio.get_running_loop().call_later(SHARED_S, self._drop, public_id, flight)
        return flight

    def _drop(self, public_id: PublicId, flight: _Flight) -> None:
        if self._flights.get(public_id) is flight:
            del self._flights[public_id]

    def _remember(self, status: Status) -> None:
        if status.is_final:
            self._reader.memory.put(status)
            self._seen.pop(status.public_id, None)
            return
        seen = self._seen.get(status.public_id)
        if seen is None or status.stamp > seen:
            self._seen[status.public_id] = status.stamp
            self._seen.move_to_end(status.public_id)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)


def _look_at(reading: asyncio.Task[Status | None]) -> None:
    """Its failure is the callers' to tell; without one left, asyncio would log it as never retrieved."""
    if not reading.cancelled():
        reading.exception()
