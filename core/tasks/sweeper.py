"""
What nobody else will do: wake due tasks, end overdue ones, return the tasks of dead workers, announce the unannounced.

Runs each second in every worker supervisor and scheduler; an advisory lock spares the others the work. Every step is a
small statement that skips locked rows, and doing one twice changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import orjson
import sqlalchemy as sa

from core.connections import autocommit, database_errors
from core.errors import StoreUnavailable
from core.ids import PublicId, WorkerId, new_task_id
from core.tasks import leases, queries, store
from core.tasks.bells import RedisBells
from core.tasks.model import Task
from core.tasks.retry import CRASH_BUDGET, SOLO_AFTER_CRASHES
from core.tasks.rows import select_list, task_from
from core.tasks.status import StatusCopies

logger = logging.getLogger(__name__)

SWEEP_LOCK = 7_240_002  # any constant: the advisory lock of sweeping
BATCH = 500  # rows in one statement: locks are held for milliseconds
OUTBOX_PATIENCE_S = 2.0  # the writer announces its own batches at once; older ones lost their writer
PRUNE_EVERY_S = 60.0
LOCK_PATIENCE_S = 3.0  # a sweep takes milliseconds
GAP_S = 3.0  # rounds are a second apart; a longer gap means that something stood still

_WAKE = """
UPDATE tasks SET ready = true WHERE id IN (
    SELECT id FROM tasks
    WHERE NOT ready AND worker_id IS NULL AND finished_at IS NULL AND run_at <= clock_timestamp()
    ORDER BY run_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING queue
"""

_EXPIRE = f"""
WITH changed AS (
    UPDATE tasks t SET state = 'timed_out', version = t.version + 1, changed_at = clock_timestamp(), ready = false,
        finished_at = clock_timestamp(),
        error = '{{"code":"deadline_exceeded","message":"the deadline passed first","retryable":true}}'
    WHERE t.id IN (
        SELECT id FROM tasks WHERE worker_id IS NULL AND finished_at IS NULL AND deadline_at <= clock_timestamp()
        ORDER BY deadline_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
    RETURNING {select_list("t")}
), told AS (
    INSERT INTO outbox (id, topic, payload, created_at)
    SELECT %(event)s, 'task.changed', json_agg(public_id)::text, now() FROM changed HAVING count(*) > 0
)
SELECT * FROM changed
"""  # noqa: S608 (only literals of ours are joined in)

# A task that was asked to stop is cancelled rather than run again. rank 0: to the front of its priority.
_RETURN = f"""
WITH orphans AS (
    SELECT t.id, CASE
            WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN w.stopped_at IS NULL AND t.crashes + 1 >= {CRASH_BUDGET} THEN 'failed'
            WHEN t.poll_state IS NOT NULL THEN 'processing' ELSE 'pending' END AS state,
        CASE WHEN w.stopped_at IS NULL THEN 1 ELSE 0 END AS crashed
    FROM tasks t JOIN workers w ON w.id = t.worker_id
    WHERE t.worker_id IS NOT NULL AND w.died_at IS NOT NULL
    ORDER BY t.id LIMIT %(limit)s FOR UPDATE OF t SKIP LOCKED
), changed AS (
    UPDATE tasks t SET state = o.state, version = t.version + 1, changed_at = clock_timestamp(), worker_id = NULL,
        token = NULL, crashes = t.crashes + o.crashed, rank = 0,
        solo = t.crashes + o.crashed >= {SOLO_AFTER_CRASHES},
        ready = o.state IN ('pending', 'processing'), run_at = clock_timestamp(),
        finished_at = CASE WHEN o.state NOT IN ('pending', 'processing') THEN clock_timestamp() END,
        error = CASE WHEN o.crashed = 1 THEN
            '{{"code":"worker_lost","message":"the worker process died while it ran the task","retryable":true}}'
            ELSE t.error END
    FROM orphans o WHERE t.id = o.id
    RETURNING {select_list("t")}
), told AS (
    INSERT INTO outbox (id, topic, payload, created_at)
    SELECT %(event)s, 'task.changed', json_agg(public_id)::text, now() FROM changed HAVING count(*) > 0
)
SELECT * FROM changed
"""  # noqa: S608 (only literals of ours are joined in)

_READY_QUEUES = """
SELECT q.name FROM queues q
WHERE EXISTS (SELECT 1 FROM tasks t WHERE t.ready AND NOT t.solo AND t.queue = q.name)
"""

_PRUNE = """
WITH old_keys AS (
    DELETE FROM idempotency_keys WHERE (owner_id, key) IN (
        SELECT owner_id, key FROM idempotency_keys WHERE created_at < now() - interval '24 hours' LIMIT 5000)
)
DELETE FROM workers w WHERE w.died_at < now() - interval '1 day'
    AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.worker_id = w.id)
"""


@dataclass(slots=True)
class SweepReport:
    """What one sweep did; `led` False: another process held the lock and nothing was done."""

    led: bool = False
    woken: int = 0
    expired: list[Task] = field(default_factory=list[Task])
    buried: list[WorkerId] = field(default_factory=list[WorkerId])
    returned: list[Task] = field(default_factory=list[Task])
    announced: int = 0
    rung: list[str] = field(default_factory=list[str])


class Sweeper:
    """
    Args:
        lease_s: longest lease in use: so long after an outage that it saw, it buries nobody.
    """

    def __init__(
        self,
        engine: sa.Engine,
        copies: StatusCopies,
        bells: RedisBells,
        *,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = autocommit(engine)
        self._copies = copies
        self._bells = bells
        self._lease_s = lease_s
        self._clock = clock
        self._no_burial_before = float("-inf")
        self._looked_at = clock()  # build it before the first wait for the database: a long one counts as an outage
        self._refused_since: float | None = None
        self._pruned_at = float("-inf")
        self._lock = threading.Lock()

    def sweep(self) -> SweepReport:
        """
        One round; safe from any number of threads and processes.

        Raises:
            StoreUnavailable: the database did not answer; the next round does the rest.
        """
        try:
            with self._lock, database_errors("nothing more was swept"), self._engine.connect() as connection:
                return self._sweep(connection)
        except StoreUnavailable:
            # Others could not send heartbeats either: their silence proves nothing.
            self._no_burial_before = self._clock() + self._lease_s
            raise

    def bury_now(self, worker_id: WorkerId) -> list[Task]:
        """
        Return the tasks of a process whose end was seen, without waiting for its lease.

        Raises:
            StoreUnavailable: the database did not answer; try again.
        """
        with database_errors("the tasks of a dead worker were not returned"), self._engine.connect() as connection:
            leases.bury(connection, worker_id)
            returned = self._return_orphans(connection)
        for queue in {task.queue for task in returned if not task.state.is_final}:
            self._bells.ring(queue)
        return returned

    def _sweep(self, connection: sa.Connection) -> SweepReport:
        report = SweepReport()
        locked = connection.exec_driver_sql("SELECT pg_try_advisory_lock(%(lock)s)", {"lock": SWEEP_LOCK}).scalar_one()
        if not locked and not self._lost_patience():
            return report
        try:
            report.led = True
            self._run(connection, report)
        finally:
            if locked:
                self._refused_since = None
                connection.exec_driver_sql("SELECT pg_advisory_unlock(%(lock)s)", {"lock": SWEEP_LOCK})
        return report

    def _lost_patience(self) -> bool:
        """The lock only spares work. Whoever holds it this long stands still in the middle of a sweep."""
        if self._refused_since is None:
            self._refused_since = self._clock()
        return self._clock() - self._refused_since > LOCK_PATIENCE_S

    def _run(self, connection: sa.Connection, report: SweepReport) -> None:
        report.expired = self._change(connection, _EXPIRE)
        report.woken = len(connection.exec_driver_sql(_WAKE, {"limit": BATCH * 10}).all())
        as_of = leases.now(connection)
        if self._may_bury():
            report.buried = leases.bury_silent(connection, as_of)
        report.returned = self._return_orphans(connection)
        report.announced = self._relay(connection)
        report.rung = [row[0] for row in connection.exec_driver_sql(_READY_QUEUES)]
        for queue in report.rung:
            self._bells.ring(queue)
        if self._clock() - self._pruned_at > PRUNE_EVERY_S:
            self._pruned_at = self._clock()
            connection.exec_driver_sql(_PRUNE)
        for worker_id in report.buried:
            logger.warning("worker declared dead", extra={"worker_id": str(worker_id)})

    def _may_bury(self) -> bool:
        """
        Whether silence proves death: not when this process heard nothing for a while either.

        A server that hangs, without an error, looks like a long pause between two rounds.
        """
        now = self._clock()
        if now - self._looked_at > max(GAP_S, self._lease_s / 4):
            self._no_burial_before = now + self._lease_s
        self._looked_at = now
        return now >= self._no_burial_before

    def _return_orphans(self, connection: sa.Connection) -> list[Task]:
        returned = self._change(connection, _RETURN)
        for task in returned:
            logger.warning("task returned from a dead worker", extra={"task_id": task.public_id, "state": task.state})
        return returned

    def _change(self, connection: sa.Connection, statement: str) -> list[Task]:
        event = new_task_id()
        rows = connection.exec_driver_sql(statement, {"limit": BATCH, "event": str(event)}).all()
        changed = [task_from(row) for row in rows]
        if changed and self._copies.announce(changed):
            store.settle(connection, [event])
        return changed

    def _relay(self, connection: sa.Connection) -> int:
        """Announce the outbox rows whose writer did not live to do it; at least once each."""
        rows = connection.exec_driver_sql(
            """SELECT id, payload FROM outbox WHERE created_at < now() - make_interval(secs => %(patience)s)
            ORDER BY created_at LIMIT 100""",
            {"patience": OUTBOX_PATIENCE_S},
        ).all()
        if not rows:
            return 0
        events: list[UUID] = [row[0] for row in rows]
        public_ids: list[PublicId] = [public_id for row in rows for public_id in orjson.loads(row[1])]
        for start in range(0, len(public_ids), BATCH):
            changed = queries.by_public_ids(connection, public_ids[start : start + BATCH])
            if not self._copies.announce(changed):
                return 0
        store.settle(connection, events)
        return len(public_ids)
