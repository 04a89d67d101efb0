"""
A worker process's way to its tasks: claims, finishes and progress of many threads, each committed in groups.

Composes the finish queue and the announcer; what each guarantees is written there. Claims are shared out round about,
so that threads that ask together start together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import sqlalchemy as sa

from core.connections import OUTAGES, autocommit, for_claims
from core.errors import StoreUnavailable
from core.ids import TaskId, WorkerId
from core.tasks import queues, store
from core.tasks.announcements import Announcer, News
from core.tasks.finishes import Finishes
from core.tasks.group_commit import GroupCommit
from core.tasks.model import Claimed, Outcome
from core.tasks.status import StatusCopies
from core.tasks.store import Finish, Progress

logger = logging.getLogger(__name__)

TICK_S = 0.25  # progress is coalesced to four writes a second and task
VIRTUAL_TIME_EVERY_S = 1.0
LOST_CLAIM_S = 60.0  # how long a statement whose connection broke could still commit: statement_timeout and more


@dataclass(frozen=True, slots=True)
class Want:
    """One thread's wish for tasks."""

    queue: str
    limit: int


class TaskWriter:
    """
    One per worker process. Thread-safe; `start` before use, `close` at the end.

    Args:
        types: task types this process can run; others are left for processes that can.
        solo: claim only tasks that crashed twice.
    """

    def __init__(
        self,
        engine: sa.Engine,
        copies: StatusCopies,
        *,
        worker_id: WorkerId,
        types: Sequence[str],
        solo: bool = False,
    ) -> None:
        self._engine = autocommit(engine)
        self._claiming = for_claims(engine)
        self._worker_id = worker_id
        self._types = list(types)
        self._solo = solo
        self._claims: GroupCommit[Want, list[Claimed]] = GroupCommit(self.commit_claims, name="claims")
        self._announcer = Announcer(copies)
        self._finishes = Finishes(self._engine, self._announcer)
        self._progress: dict[TaskId, Progress] = {}
        self._progress_lock = threading.Lock()
        self._highest: dict[str, int] = {}
        self._lost: dict[int, float] = {}
        self._closing = threading.Event()
        self._ticker = threading.Thread(target=self._run_ticks, name="progress", daemon=True)

    def start(self) -> None:
        self._announcer.start()
        self._finishes.start()
        self._ticker.start()

    def is_alive(self) -> bool:
        return (
            self._announcer.is_alive()
            and self._finishes.is_alive()
            and self._ticker.is_alive()
            and self._claims.is_alive()
        )

    def claim(self, queue: str, *, limit: int, timeout_s: float) -> list[Claimed]:
        """
        Take up to `limit` ready tasks, together with what other threads take now; [] when nothing is ready.

        Raises:
            StoreUnavailable: no answer in time; what was claimed meanwhile is returned by the writer.
        """
        future = self._claims.submit(Want(queue, limit))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.add_done_callback(lambda late: self._give_back([] if _failed(late) else late.result()))
            future.cancel()
            raise StoreUnavailable("the database did not answer in time; nothing was claimed") from None

    def finish(self, claimed: Claimed, outcome: Outcome) -> None:
        """Queue an outcome: durable soon, told afterwards. Waits while 256 others do."""
        self._finishes.add(Finish(claimed, outcome))

    def give_back(self, claimed: Sequence[Claimed]) -> None:
        """Return claims whose handlers were never started, as if they had not happened."""
        self._give_back(claimed)

    def progress(self, claimed: Claimed, progress_json: str) -> None:
        """Note the newest progress; written with the next tick."""
        with self._progress_lock:
            self._progress[claimed.task.id] = Progress(claimed.task.id, claimed.token, progress_json)

    def flush(self, timeout_s: float) -> bool:
        """Wait until every queued finish is durable; False when the time was up."""
        return self._finishes.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Stop claiming, make the finishes durable, announce them, end the threads."""
        deadline = time.monotonic() + timeout_s
        self._claims.close(min(2.0, timeout_s))
        flushed = self._finishes.close(max(0.1, deadline - time.monotonic()))
        self._closing.set()
        self._announcer.close(1.0)
        if self._ticker.is_alive():
            self._ticker.join(1.0)
        self._claiming.dispose()
        return flushed

    def commit_claims(self, wants: Sequence[Want]) -> Sequence[list[Claimed] | Exception]:
        """Claim for several threads at once; a share for each, in order."""
        limits: dict[str, int] = defaultdict(int)
        for want in wants:
            limits[want.queue] += want.limit
        token = store.new_token()
        found: dict[str, list[Claimed]] = {}
        try:
            with autocommit(self._claiming).connect() as connection:
                for queue, limit in limits.items():
                    taken = store.claim(
                        connection,
                        queue,
                        self._types,
                        limit=limit,
                        worker=self._worker_id,
                        token=token,
                        solo=self._solo,
                    )
                    found[queue] = taken.tasks
                    self._highest[queue] = max(self._highest.get(queue, 0), taken.highest_rank)
        except OUTAGES as error:
            # It may have been committed all the same: rows in this process's name that no thread runs.
            self._lost[token] = time.monotonic()
            raise StoreUnavailable("the database did not answer; nothing was claimed") from error
        shares = _share_out(wants, found)
        news = [claimed.task for tasks in found.values() for claimed in tasks]
        if news:
            self._announcer.announce(News(news))
        return shares

    def _give_back(self, claimed: Sequence[Claimed]) -> None:
        for one in claimed:
            self._finishes.add(Finish(one, Outcome.returned(one)))

    def _run_ticks(self) -> None:
        virtual_time_at = time.monotonic()
        while not self._closing.wait(TICK_S):
            try:
                self._write_progress()
                if time.monotonic() - virtual_time_at >= VIRTUAL_TIME_EVERY_S:
                    virtual_time_at = time.monotonic()
                    self._write_virtual_time()
                    self._settle()
                    self._disown_lost()
            except OUTAGES:
                logger.debug("progress waits for the database")

    def _write_progress(self) -> None:
        with self._progress_lock:
            reports, self._progress = self._progress, {}
        if not reports:
            return
        with self._engine.connect() as connection:
            changed = store.report_progress(connection, list(reports.values()))
        self._announcer.announce(News(changed))

    def _write_virtual_time(self) -> None:
        highest = [(queue, rank) for queue, rank in self._highest.items() if rank > 0]
        if not highest:
            return
        self._highest = {}
        with self._engine.connect() as connection:
            queues.advance(connection, highest)

    def _settle(self) -> None:
        events = self._announcer.settled()
        if events:
            with self._engine.connect() as connection:
                store.settle(connection, events)

    def _disown_lost(self) -> None:
        lost = dict(self._lost)
        if not lost:
            return
        with self._engine.connect() as connection:
            returned = store.disown(connection, self._worker_id, list(lost))
        if returned:
            logger.warning("claims whose answer was lost were returned", extra={"tasks": returned})
        for token, lost_at in lost.items():
            if time.monotonic() - lost_at > LOST_CLAIM_S:
                del self._lost[token]


def _failed(future: Future[list[Claimed]]) -> bool:
    return future.cancelled() or future.exception() is not None


def _share_out(wants: Sequence[Want], found: dict[str, list[Claimed]]) -> list[list[Claimed]]:
    """Round about, best first: of three tasks for three threads each gets one, whatever the first could take."""
    shares: list[list[Claimed]] = [[] for _ in wants]
    left = {queue: iter(tasks) for queue, tasks in found.items()}
    open_places = list(range(len(wants)))
    while open_places:
        still_open: list[int] = []
        for place in open_places:
            task = next(left[wants[place].queue], None)
            if task is None:
                continue
            shares[place].append(task)
            if len(shares[place]) < wants[place].limit:
                still_open.append(place)
        open_places = still_open
    return shares
