"""
Runs of jobs: begun by one scheduler, finished by the same one, taken over from a dead one.

Every write is fenced by (run, holder, attempt): a scheduler that was declared dead, or that sat in SIGSTOP while
another took its runs, changes nothing. Three schedulers lost with one run fail it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from core.ids import WorkerId
from core.schedules.model import FREQUENT_S, RECENT_RUNS, RunOutcome

MOST_ATTEMPTS = 3

# The holder's row is share-locked: a run is never begun by a process that is being declared dead at that moment.
_BEGIN = """
WITH holder AS (SELECT 1 FROM workers WHERE id = %(holder)s AND died_at IS NULL FOR SHARE),
next AS (
    SELECT r.id, s.name, s.every_s FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
    WHERE r.outcome = 'waiting' AND s.kind = 'job' AND s.name = ANY(%(jobs)s) AND EXISTS (SELECT 1 FROM holder)
        AND NOT EXISTS (SELECT 1 FROM schedule_runs o WHERE o.schedule_id = r.schedule_id
            AND (o.outcome = 'running' OR (o.outcome = 'waiting' AND o.due_at < r.due_at)))
    ORDER BY r.due_at LIMIT %(limit)s FOR UPDATE OF r, s SKIP LOCKED
)
UPDATE schedule_runs r SET outcome = 'running', holder_id = %(holder)s, attempt = r.attempt + 1,
    started_at = clock_timestamp(), lateness_s = extract(epoch FROM clock_timestamp() - r.due_at)
FROM next n WHERE r.id = n.id
RETURNING r.id, n.name, r.due_at, r.attempt, n.every_s
"""

# Not left to the sweep alone: a process that was stopped in the middle of one keeps the others from sweeping.
_BURY_SILENT = """
UPDATE workers SET died_at = clock_timestamp() WHERE id IN (
    SELECT w.id FROM workers w
    WHERE w.died_at IS NULL AND w.heartbeat_at < clock_timestamp() - make_interval(secs => w.lease_s)
        AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => w.lease_s)
        AND EXISTS (SELECT 1 FROM schedule_runs r WHERE r.holder_id = w.id AND r.outcome = 'running')
    ORDER BY w.id FOR UPDATE SKIP LOCKED)
"""

# What a holder that is gone held: waits again, or is failed after the third.
_TAKE_OVER = """
WITH lost AS (
    SELECT r.id FROM schedule_runs r LEFT JOIN workers w ON w.id = r.holder_id
    WHERE r.outcome = 'running' AND (w.id IS NULL OR w.died_at IS NOT NULL)
    FOR UPDATE OF r SKIP LOCKED
), changed AS (
    UPDATE schedule_runs r SET holder_id = NULL,
        outcome = CASE WHEN r.attempt >= %(most)s THEN 'failed' ELSE 'waiting' END,
        finished_at = CASE WHEN r.attempt >= %(most)s THEN clock_timestamp() END,
        reason = CASE WHEN r.attempt >= %(most)s THEN 'scheduler_lost: its schedulers died' ELSE r.reason END
    FROM lost l WHERE r.id = l.id
    RETURNING r.schedule_id, r.outcome
), counted AS (
    UPDATE schedules s SET runs = s.runs + 1, failures = s.failures + 1
    FROM changed c WHERE s.id = c.schedule_id AND c.outcome = 'failed'
)
SELECT count(*) FROM changed
"""

_GIVE_BACK = """
UPDATE schedule_runs SET outcome = 'waiting', holder_id = NULL, attempt = attempt - 1, started_at = NULL
WHERE outcome = 'running' AND holder_id = %(holder)s AND NOT id = ANY(%(keep)s)
"""

_FENCE = "WHERE r.id = %(id)s AND r.holder_id = %(holder)s AND r.attempt = %(attempt)s AND r.outcome = 'running'"

_FINISH = f"""
WITH done AS (
    UPDATE schedule_runs r SET outcome = %(outcome)s, reason = %(reason)s, log = %(log)s,
        finished_at = r.started_at + %(took)s
    {_FENCE} RETURNING r.schedule_id
)
UPDATE schedules s SET runs = s.runs + 1, failures = s.failures + (%(outcome)s = 'failed')::int
FROM done WHERE s.id = done.schedule_id RETURNING 1
"""  # noqa: S608 (only literals of ours are joined in)

_FINISH_FREQUENT = f"""
WITH done AS (DELETE FROM schedule_runs r {_FENCE} RETURNING r.*)
UPDATE schedules s SET runs = s.runs + 1, failures = s.failures + (%(outcome)s = 'failed')::int,
    recent = jsonb_path_query_array(jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
        'due_at', done.due_at, 'outcome', %(outcome)s::text, 'due_times', 1, 'reason', %(reason)s::text,
        'attempt', done.attempt, 'started_at', done.started_at, 'finished_at', done.started_at + %(took)s,
        'lateness_s', done.lateness_s, 'log', %(log)s::text))) || s.recent::jsonb, '$[0 to {RECENT_RUNS - 1}]')::text
FROM done WHERE s.id = done.schedule_id RETURNING 1
"""  # noqa: S608 (only literals of ours are joined in)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A run in a scheduler's hands; (id, holder, attempt) is its fence."""

    id: UUID
    job: str
    due_at: datetime
    attempt: int
    holder: WorkerId
    is_frequent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """
    Args:
        outcome: SUCCEEDED or FAILED.
        reason: what the job said, or why it failed.
        log: its last lines; no NUL.
    """

    outcome: RunOutcome
    reason: str | None
    log: str | None
    took: timedelta


def begin(connection: sa.Connection, holder: WorkerId, *, jobs: Sequence[str], limit: int) -> list[Held]:
    """Take waiting runs of these jobs, at most one of each and none whose job runs; nothing for a dead holder."""
    rows = connection.exec_driver_sql(_BEGIN, {"holder": holder, "jobs": list(jobs), "limit": limit}).mappings()
    return [
        Held(
            id=row["id"],
            job=row["name"],
            due_at=row["due_at"],
            attempt=row["attempt"],
            holder=holder,
            is_frequent=row["every_s"] is not None and row["every_s"] < FREQUENT_S,
        )
        for row in rows
    ]


def finish(connection: sa.Connection, held: Held, ending: Ending) -> bool:
    """False: the run is another's by now, or was finished already."""
    values = {
        "id": held.id,
        "holder": held.holder,
        "attempt": held.attempt,
        "outcome": ending.outcome.value,
        "reason": ending.reason,
        "log": ending.log,
        "took": ending.took,
    }
    statement = _FINISH_FREQUENT if held.is_frequent else _FINISH
    return connection.exec_driver_sql(statement, values).first() is not None


def take_over(connection: sa.Connection) -> int:
    """Let the runs of dead and of silent schedulers wait for another; returns how many there were."""
    connection.exec_driver_sql(_BURY_SILENT)
    count: int = connection.exec_driver_sql(_TAKE_OVER, {"most": MOST_ATTEMPTS}).scalar_one()
    return count


def give_back(connection: sa.Connection, holder: WorkerId, *, keep: Collection[UUID]) -> int:
    """Let what this holder runs, but for `keep`, wait for another as if it had not begun; returns how many."""
    return connection.exec_driver_sql(_GIVE_BACK, {"holder": holder, "keep": list(keep)}).rowcount
