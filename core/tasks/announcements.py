"""
Telling the world what was committed: new statuses to Redis, waiters woken, outbox rows settled.

One thread, behind the writers, so that no commit waits for Redis. What gathers while it talks is sent together, the
newest version of a task only. Losing an announcement costs latency: a live copy ends within a second, waiters re-read,
and the sweeper announces what is left in the outbox.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from core.ids import PublicId
from core.tasks.model import Task
from core.tasks.status import StatusCopies

logger = logging.getLogger(__name__)

MAX_TASKS = 5_000  # that wait; beyond it announcements are dropped, which only costs latency
MAX_BYTES = 64 * 1024 * 1024  # of results that wait


@dataclass(frozen=True, slots=True)
class News:
    """
    Tasks of one commit.

    Args:
        event: the commit's outbox row, settled once announced; None when it has none.
    """

    tasks: Collection[Task]
    event: UUID | None = None


class Announcer:
    """Takes news from any thread; `settled()` hands back the outbox rows that can go."""

    def __init__(self, copies: StatusCopies) -> None:
        self._copies = copies
        self._waiting: deque[News] = deque()
        self._settled: deque[UUID] = deque()
        self._changed = threading.Condition()
        self._tasks = 0
        self._bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="announcements", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def announce(self, news: News) -> None:
        size = sum(len(task.result_json or "") for task in news.tasks)
        with self._changed:
            if self._waiting and (self._tasks + len(news.tasks) > MAX_TASKS or self._bytes + size > MAX_BYTES):
                return
            self._tasks += len(news.tasks)
            self._bytes += size
            self._waiting.append(news)
            if len(self._waiting) == 1:
                self._changed.notify()

    def settled(self) -> list[UUID]:
        """Outbox rows announced since the last call; the next transaction of a writer deletes them."""
        events: list[UUID] = []
        while self._settled:
            events.append(self._settled.popleft())
        return events

    def close(self, timeout_s: float) -> None:
        """Announce what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = list(self._waiting)
                self._waiting.clear()
                self._tasks = self._bytes = 0
            self._tell(batch)

    def _tell(self, batch: list[News]) -> None:
        newest: dict[PublicId, Task] = {}
        for news in batch:
            for task in news.tasks:
                known = newest.get(task.public_id)
                if known is None or known.version < task.version:
                    newest[task.public_id] = task
        if self._copies.announce(newest.values()):
            self._settled.extend(news.event for news in batch if news.event is not None)
