"""
Archive final tasks, delete archived ones, forget old runs, bans and acts of operators.

Batches of 500 in transactions of their own, by ascending id, with a pause as long as the batch took: claims never wait.
idempotent: a task is in one of the two tables; what a first attempt has moved, a second does not find.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import sqlalchemy as sa

from core.app import App
from core.connections import RedisAway
from core.ids import PublicId
from core.tasks import archive
from jobs.spec import JobContext, JobSpec

RUNS_KEPT_DAYS = 90
LEAST_PAUSE_S = 0.02

_FORGET_RUNS = """
DELETE FROM schedule_runs WHERE id IN (
    SELECT id FROM schedule_runs WHERE due_at < %(before)s AND outcome NOT IN ('waiting', 'running')
    ORDER BY due_at LIMIT 500 FOR UPDATE SKIP LOCKED)
"""


def run(ctx: JobContext) -> str:
    settings = ctx.app.settings
    with ctx.app.engine.connect() as connection:
        now: datetime = connection.execute(sa.select(sa.func.now())).scalar_one()
    archived = _archive(ctx, now - timedelta(days=settings.archive_after_days)) if settings.archive_after_days else 0
    deleted = _delete(ctx, now - timedelta(days=settings.delete_after_days)) if settings.delete_after_days else 0
    forgotten = _forget_runs(ctx, now - timedelta(days=RUNS_KEPT_DAYS))
    bans = _until_none(ctx, ctx.app.access.bans.forget_old)
    acts = _until_none(ctx, ctx.app.access.audit.forget_old)
    said = f"archived {archived} tasks, deleted {deleted}, forgot {forgotten} runs"
    return f"{said}, {bans} bans, {acts} acts" if bans or acts else said


def _archive(ctx: JobContext, before: datetime) -> int:
    place = archive.FIRST_ID

    def step(connection: sa.Connection) -> list[PublicId] | None:
        nonlocal place
        batch = archive.archive(connection, before=before, after=place)
        if batch.last is None:
            return None
        place = batch.last
        return batch.public_ids

    return _in_batches(ctx, step)


def _delete(ctx: JobContext, before: datetime) -> int:
    return _in_batches(ctx, lambda connection: archive.delete(connection, before=before) or None)


def _forget_runs(ctx: JobContext, before: datetime) -> int:
    total = 0
    while True:
        with ctx.app.engine.begin() as connection:
            count = connection.exec_driver_sql(_FORGET_RUNS, {"before": before}).rowcount
        if count == 0:
            return total
        total += count
        ctx.pause(LEAST_PAUSE_S)


def _until_none(ctx: JobContext, forget: Callable[[], int]) -> int:
    total = 0
    while count := forget():
        total += count
        ctx.pause(LEAST_PAUSE_S)
    return total


def _in_batches(ctx: JobContext, step: Callable[[sa.Connection], list[PublicId] | None]) -> int:
    """
    Call `step` in a transaction of its own each time, until it says None; how many tasks it named.

    Their copies are dropped after the commit: dropped before, a reader would put one back.
    """
    total = 0
    while True:
        began = time.monotonic()
        with ctx.app.engine.begin() as connection:
            done = step(connection)
        if done is None:
            return total
        _drop_copies(ctx.app, done)
        total += len(done)
        ctx.pause(max(LEAST_PAUSE_S, time.monotonic() - began))


def _drop_copies(app: App, public_ids: Sequence[PublicId]) -> None:
    # Lost with Redis away: a copy lives for two hours by itself.
    with suppress(RedisAway), app.cache.errors() as client:
        if public_ids:
            client.unlink(*map(app.status_keys.of, public_ids))


JOB = JobSpec(name="prune", run=run, every=timedelta(hours=1), timeout=timedelta(minutes=30))
