"""
Firing: turn due times into runs, exactly once, with any number of schedulers and whatever their clocks say (law 8).

One transaction takes rows whose fire time the database's clock has passed, decides (`due.py`, `overlap.py`), writes
the runs, enqueues the tasks and moves `last_due` and `next_due`. Rows that another scheduler holds are skipped; it
either commits, and they are due no more, or it does not, and the next look finds them. A scheduler stopped in the
middle loses its transaction after five seconds (`idle_in_transaction_session_timeout`).

Jobs are not run here: their runs wait for whoever begins them (`runs.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from cronsim import CronSimError
from sqlalchemy.exc import DBAPIError

from core.connections import OUTAGES, autocommit, database_errors
from core.errors import HeadraceError
from core.schedules.due import decide, fire_time
from core.schedules.fire_plan import FirePlan, State
from core.schedules.model import Missed
from core.schedules.rows import Row, timing_of
from core.task_types.spec import TaskInput, TaskTypes

logger = logging.getLogger(__name__)

BATCH = 200  # schedules in one transaction: a hundred milliseconds
MOST_BATCHES = 50  # of one look; the next look goes on

# What one row's text may do (a zone that is gone, a task that cannot be stored) must not stop the others.
_ROW_FAULTS = (
    DBAPIError,
    HeadraceError,
    CronSimError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    RuntimeError,
)

_LOOK = """
SELECT clock_timestamp() AS now,
    (SELECT min(fire_at) FROM schedules WHERE enabled AND fire_at IS NOT NULL) AS next_fire,
    EXISTS (SELECT 1 FROM schedule_runs WHERE outcome = 'waiting') AS has_waiting,
    EXISTS (SELECT 1 FROM schedules WHERE enabled AND fire_at <= now() AND kind = 'task')
        OR EXISTS (SELECT 1 FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
            WHERE r.outcome = 'waiting' AND s.kind = 'task') AS has_tasks,
    EXISTS (SELECT 1 FROM schedule_runs r LEFT JOIN workers w ON w.id = r.holder_id
        WHERE r.outcome = 'running' AND (w.id IS NULL OR w.died_at IS NOT NULL
            OR w.heartbeat_at < clock_timestamp() - make_interval(secs => w.lease_s))) AS has_orphans
"""

# now() is when the transaction began, and may be used with the index (clock_timestamp() may not). A transaction that
# began long ago only takes less.
_TAKE = """
SELECT now() AS now, s.* FROM schedules s
WHERE s.enabled AND s.fire_at <= now() AND (s.kind = 'task' OR s.name = ANY(%(jobs)s))
    AND (%(only)s::uuid IS NULL OR s.id = %(only)s)
ORDER BY s.fire_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""

_TAKE_WAITING = """
SELECT now() AS now, r.id AS run_id, r.due_at, s.*
FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
WHERE r.outcome = 'waiting' AND s.kind = 'task'
    AND NOT EXISTS (SELECT 1 FROM schedule_runs o
        WHERE o.schedule_id = r.schedule_id AND o.outcome IN ('waiting', 'running') AND o.due_at < r.due_at)
    AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.public_id = s.last_task_id AND t.finished_at IS NULL)
    AND (%(only)s::uuid IS NULL OR s.id = %(only)s)
ORDER BY r.due_at LIMIT %(limit)s FOR UPDATE OF r, s SKIP LOCKED
"""

_STATES = """
SELECT s.id,
    (SELECT count(*) FROM schedule_runs r WHERE r.schedule_id = s.id AND r.outcome = 'waiting') AS waiting,
    EXISTS (SELECT 1 FROM schedule_runs r WHERE r.schedule_id = s.id AND r.outcome = 'running')
        OR EXISTS (SELECT 1 FROM tasks t WHERE t.public_id = s.last_task_id AND t.finished_at IS NULL) AS active,
    CASE WHEN s.owner_id IS NULL THEN NULL
        WHEN k.key_id IS NULL OR k.deleted_at IS NOT NULL THEN 'the owner''s key is deleted'
        WHEN k.disabled_at IS NOT NULL THEN 'the owner''s key is disabled'
        WHEN k.expires_at <= now() THEN 'the owner''s key has expired' END AS refused,
    k.allowed_types, k.allowed_models
FROM schedules s LEFT JOIN virtual_keys k ON k.key_id = s.owner_id WHERE s.id = ANY(%(ids)s)
"""

# The due time that could not be fired is a failed run: it must not be lost (law 8).
_GIVE_UP = """
WITH waiting AS (
    UPDATE schedule_runs SET outcome = 'failed', reason = %(reason)s, finished_at = now()
    WHERE schedule_id = %(id)s AND outcome = 'waiting'
), due AS (
    INSERT INTO schedule_runs (id, schedule_id, due_at, due_times, outcome, reason, attempt, finished_at)
    SELECT gen_random_uuid(), id, next_due, 1, 'failed', %(reason)s, 0, now()
    FROM schedules WHERE id = %(id)s AND enabled AND fire_at <= now()
    RETURNING due_at
)
UPDATE schedules SET enabled = false, version = version + 1, changed_at = now(), disabled_reason = %(reason)s,
    last_due = coalesce((SELECT due_at FROM due), last_due),
    runs = runs + (SELECT count(*) FROM due), failures = failures + (SELECT count(*) FROM due)
WHERE id = %(id)s AND enabled
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """
    What there is to do, by the database's clock.

    Args:
        next_fire: earliest fire time of all schedules; it may have passed.
        has_tasks: what is due or waits is not only jobs.
        has_orphans: runs whose scheduler is dead or silent.
    """

    now: datetime
    next_fire: datetime | None
    has_waiting: bool
    has_tasks: bool
    has_orphans: bool

    @property
    def is_due(self) -> bool:
        return self.next_fire is not None and self.next_fire <= self.now


class Firing:
    """
    Fires schedules for one scheduler process. Not thread-safe.

    Args:
        jobs: the jobs this process has files of; others' due times are left to others.
        check_model: refuses what a task's model is known not to do. It is called inside transactions: memory only.
        ring: tells workers that a queue has work; must not raise.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        types: TaskTypes,
        jobs: Sequence[str],
        check_model: Callable[[TaskInput], None],
        ring: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._direct = autocommit(engine)
        self._types = types
        self._jobs = list(jobs)
        self._check_model = check_model
        self._ring = ring

    def look(self) -> Look:
        """One cheap statement; raises StoreUnavailable."""
        with database_errors("nothing was fired"), self._direct.connect() as connection:
            return Look(**connection.exec_driver_sql(_LOOK).mappings().one())

    def fire(self) -> int:
        """
        Fire what is due; returns how many schedules were.

        Raises:
            StoreUnavailable: the next look does the rest.
        """
        return self._in_batches(_TAKE, self._plan_due)

    def enqueue_waiting(self) -> int:
        """Enqueue the task of runs that waited for the one before them, or that a person asked for."""
        return self._in_batches(_TAKE_WAITING, self._plan_waiting)

    def _in_batches(self, take: str, plan: Callable[[FirePlan, Row, State], None]) -> int:
        done = 0
        for _ in range(MOST_BATCHES):
            try:
                with database_errors("nothing more was fired"):
                    count = self._batch(take, plan)
            except _Unfireable as error:
                count = self._one_by_one(take, plan, error.ids)
            done += count
            if count < BATCH:
                break
        return done

    def _batch(self, take: str, plan: Callable[[FirePlan, Row, State], None], *, only: UUID | None = None) -> int:
        with self._engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '5s'")
            values = {"jobs": self._jobs, "limit": BATCH, "only": only}
            rows = connection.exec_driver_sql(take, values).mappings().all()
            if not rows:
                return 0
            try:
                fire_plan = FirePlan(self._types, self._check_model)
                states = self._states(connection, [row["id"] for row in rows])
                for row in rows:
                    plan(fire_plan, row, states[row["id"]])
                fire_plan.write(connection)
            except OUTAGES:
                raise
            except _ROW_FAULTS as error:
                raise _Unfireable([row["id"] for row in rows]) from error
        for queue in fire_plan.queues:
            self._ring(queue)
        return len(rows)

    def _one_by_one(self, take: str, plan: Callable[[FirePlan, Row, State], None], ids: Sequence[UUID]) -> int:
        """After a batch failed: find the schedule that cannot be fired, and disable it."""
        for schedule_id in ids:
            try:
                with database_errors("nothing more was fired"):
                    self._batch(take, plan, only=schedule_id)
            except _Unfireable as error:
                reason = f"could not be fired: {type(error.__cause__).__name__}: {error.__cause__}"[:500]
                logger.error("schedule disabled", extra={"schedule": str(schedule_id), "reason": reason})
                with database_errors("a schedule was not disabled"), self._direct.connect() as connection:
                    connection.exec_driver_sql(_GIVE_UP, {"id": schedule_id, "reason": reason.replace("\x00", "")})
        return len(ids)

    def _states(self, connection: sa.Connection, ids: Sequence[UUID]) -> dict[UUID, State]:
        """A statement of its own: its snapshot is taken when the rows are locked already."""
        rows = connection.exec_driver_sql(_STATES, {"ids": list(ids)}).mappings()
        return {
            row["id"]: State(
                active=row["active"],
                waiting=row["waiting"],
                refused=row["refused"],
                allowed_types=tuple(row["allowed_types"] or ()),
                allowed_models=tuple(row["allowed_models"] or ()),
            )
            for row in rows
        }

    def _plan_due(self, plan: FirePlan, row: Row, state: State) -> None:
        timing = timing_of(row)
        decision = decide(timing, first=row["next_due"], now=row["now"], missed=Missed(row["missed"]))
        next_due = decision.next_due
        fire_at = None if next_due is None else fire_time(timing, next_due)
        plan.add(row, state, decision, fire_at=fire_at)

    def _plan_waiting(self, plan: FirePlan, row: Row, state: State) -> None:
        plan.add_waiting(row, state)


class _Unfireable(Exception):
    """One of these schedules cannot be fired; the cause says why."""

    def __init__(self, ids: Sequence[UUID]) -> None:
        super().__init__("a schedule cannot be fired")
        self.ids = ids
