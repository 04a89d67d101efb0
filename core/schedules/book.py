"""
The schedules as people see them: made, shown, changed, paused, run at once, and what their runs did.

A change by a person raises `version`. Nothing here fires: that is `firing.py`, in scheduler processes. Times come from
the database's clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from core.access.keys.owners import Owners
from core.access.keys.permissions import named_model
from core.connections import autocommit, database_errors
from core.errors import InvalidRequest, KeyRefused, NotAllowed, ScheduleChanged, ScheduleExists
from core.ids import KeyId, new_task_id
from core.schedules import due, task_template
from core.schedules.history import add_waiting, page_of_runs
from core.schedules.model import Run, RunPage, Schedule, ScheduleKind, SchedulePage
from core.schedules.rows import SCHEDULE_COLUMNS, Row, schedule_of, timing_of
from core.schedules.spec import ScheduleSpec, changed, columns_of, spec_of
from core.schedules.table import complete, find, store, upcoming
from core.schema import schedule_runs, schedules
from core.task_types.spec import TaskInput, TaskTypes
from core.tasks.queues import KnownQueues

PREVIEWED = 10
MAX_PAGE = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class ScheduleBook:
    """
    All schedules of one deployment. Thread-safe. Every method raises StoreUnavailable when the database is away.

    Args:
        check_model: refuses what a task's model is known not to do.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        types: TaskTypes,
        owners: Owners,
        queues: KnownQueues,
        check_model: Callable[[TaskInput], None],
    ) -> None:
        self._engine = engine
        self._direct = autocommit(engine)
        self._types = types
        self._owners = owners
        self._queues = queues
        self._check_model = check_model

    def check(self, spec: ScheduleSpec) -> None:
        """
        Raises:
            InvalidRequest: names the field, e.g. `cron`, `timezone`, `owner`, `task.input.messages`.
                ModelCannot: the task's model is known not to do it; `task.input.model`.
        """
        self._check(spec, with_task=True)

    def preview(self, spec: ScheduleSpec, count: int = PREVIEWED) -> list[datetime]:
        """The next due times of a schedule that is not saved; only its timing is checked."""
        now = self._now()
        timing = spec.timing(_whole_second(now))
        due.check_timing(timing)
        return due.preview(timing, after=now, count=count)

    def fires(self, schedule: Schedule, count: int = PREVIEWED) -> list[datetime]:
        """The next due times of one that is there; none while it is not enabled."""
        if schedule.next_due is None or count < 1:
            return []
        return [schedule.next_due, *due.preview(schedule.timing, after=schedule.next_due, count=count - 1)][:count]

    def create(self, spec: ScheduleSpec) -> Schedule:
        """
        Raises:
            InvalidRequest: as `check`.
            ScheduleExists: another one has this name.
        """
        self.check(spec)
        now = self._now()
        timing = spec.timing(_whole_second(now))
        values = {
            "id": new_task_id(),
            "name": spec.name,
            "kind": ScheduleKind.TASK.value,
            "anchor_at": timing.anchor_at,
            "version": 1,
            "runs": 0,
            "failures": 0,
            "skips": 0,
            "recent": "[]",
            "created_at": now,
            **columns_of(spec, now),
            **upcoming(timing, now),
        }
        statement = insert(schedules).values(values).on_conflict_do_nothing()
        with database_errors("no schedule was made"), self._direct.connect() as connection:
            row = connection.execute(statement.returning(*SCHEDULE_COLUMNS)).mappings().first()
        if row is None:
            raise ScheduleExists(f"name: there is a schedule {spec.name!r} already; take another name or update it")
        return schedule_of(row)

    def get(self, name: str, kind: ScheduleKind = ScheduleKind.TASK) -> Schedule:
        """
        Raises:
            ScheduleNotFound: none of this kind has the name.
        """
        with database_errors("the schedule was not read"), self._direct.connect() as connection:
            return complete(connection, [find(connection, name, kind)])[0]

    def list(
        self, kind: ScheduleKind = ScheduleKind.TASK, *, limit: int = 50, cursor: str | None = None
    ) -> SchedulePage:
        """
        A page by name.

        Raises:
            InvalidRequest: `limit` is out of bounds.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}", field="limit")
        query = sa.select(*SCHEDULE_COLUMNS).where(schedules.c.kind == kind.value).order_by(schedules.c.name)
        if cursor is not None:
            query = query.where(schedules.c.name > cursor)
        with database_errors("the schedules were not read"), self._direct.connect() as connection:
            rows = connection.execute(query.limit(limit + 1)).mappings().all()
            found = complete(connection, rows[:limit])
        return SchedulePage(schedules=found, next_cursor=found[-1].name if len(rows) > limit else None)

    def update(self, name: str, changes: Mapping[str, Any], *, version: int | None = None) -> Schedule:
        """
        Change fields of a ScheduleSpec, all but its name. A new timing begins now: what was missed before is dropped.

        A task that stays is not checked again: a schedule whose task is refused by now can still be paused.

        Args:
            changes: only what changes; giving `cron` drops `every_s` and the other way round.
            version: refuse when it is not this one any more.

        Raises:
            InvalidRequest: as `check`, or an unknown field.
            ScheduleNotFound, ScheduleChanged.
        """
        with database_errors("the schedule was not changed"), self._engine.connect() as connection:
            old = spec_of(find(connection, name, ScheduleKind.TASK))
        spec = changed(old, changes)
        self._check(spec, with_task="task" in changes)
        with database_errors("the schedule was not changed"), self._engine.begin() as connection:
            row = find(connection, name, ScheduleKind.TASK, lock=True)
            if spec_of(row) != old or (version is not None and row["version"] != version):
                raise ScheduleChanged(f"schedule {name!r} was changed meanwhile; read it again")
            return complete(connection, [self._write(connection, row, spec)])[0]

    def delete(self, name: str) -> None:
        """
        Forget a schedule and its history; the tasks it enqueued stay.

        Raises:
            ScheduleNotFound.
        """
        with database_errors("the schedule was not deleted"), self._engine.begin() as connection:
            row = find(connection, name, ScheduleKind.TASK, lock=True)
            connection.execute(sa.delete(schedule_runs).where(schedule_runs.c.schedule_id == row["id"]))
            connection.execute(sa.delete(schedules).where(schedules.c.id == row["id"]))

    def pause(self, name: str, kind: ScheduleKind = ScheduleKind.TASK) -> Schedule:
        """No fires until it is resumed; a run that goes on is left alone."""
        return self._switch(name, kind, enabled=False)

    def resume(self, name: str, kind: ScheduleKind = ScheduleKind.TASK) -> Schedule:
        """
        Fire again, from the next due time on: those of the pause are not missed ones.

        Raises:
            ScheduleChanged: a job whose file is gone.
        """
        return self._switch(name, kind, enabled=True)

    def run_now(self, name: str, kind: ScheduleKind = ScheduleKind.TASK) -> Run:
        """
        Ask the schedulers for a run now, also of a paused one; one takes it within about a second, after a run that
        goes on. While one waits already, that one is the answer.

        Raises:
            ScheduleNotFound.
            ScheduleChanged: a job whose file is gone.
        """
        with database_errors("no run was asked for"), self._engine.begin() as connection:
            row = find(connection, name, kind, lock=True)
            if kind is ScheduleKind.JOB and row["disabled_reason"] is not None:
                raise ScheduleChanged(f"job {name!r} cannot run: {row['disabled_reason']}")
            return add_waiting(connection, row["id"], reason="asked for by a person")

    def history(
        self, name: str, kind: ScheduleKind = ScheduleKind.TASK, *, limit: int = 50, cursor: str | None = None
    ) -> RunPage:
        """
        Runs and skips, newest due time first.

        Raises:
            ScheduleNotFound.
            InvalidRequest: `limit` or `cursor`.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}", field="limit")
        with database_errors("the history was not read"), self._direct.connect() as connection:
            return page_of_runs(connection, find(connection, name, kind), limit=limit, cursor=cursor)

    def _check(self, spec: ScheduleSpec, *, with_task: bool) -> None:
        if not _NAME.fullmatch(spec.name):
            raise InvalidRequest("name: lower-case letters, digits, `.`, `_` and `-`, 64 at most", field="name")
        due.check_timing(spec.timing(self._now()))
        if with_task:
            self._check_task(spec)
        self._check_owner(spec)

    def _check_owner(self, spec: ScheduleSpec) -> None:
        template = task_template.read(spec.task)
        try:
            self._owners.check(spec.owner, template.type, named_model(template.input))
        except KeyRefused:  # it may be enabled again, or its expiry moved; until then each fire fails and says why
            pass
        except NotAllowed as error:
            # It is not the operator who may not: to them it is a wrong field, with the same message.
            field = f"{task_template.FIELD}.{error.field}"
            raise InvalidRequest(f"{task_template.FIELD}.{error}", field=field) from error

    def _check_task(self, spec: ScheduleSpec) -> None:
        template = task_template.read(spec.task)
        task_template.new_task(template, self._types, owner=KeyId(spec.owner), check_model=self._check_model)
        try:
            self._queues.check(template.queue)
        except InvalidRequest as error:
            raise task_template.within_task(error) from error

    def _switch(self, name: str, kind: ScheduleKind, *, enabled: bool) -> Schedule:
        with database_errors("the schedule was not changed"), self._engine.begin() as connection:
            row = find(connection, name, kind, lock=True)
            if row["enabled"] == enabled:
                return complete(connection, [row])[0]
            if enabled and kind is ScheduleKind.JOB and row["disabled_reason"] is not None:
                raise ScheduleChanged(f"job {name!r} cannot be resumed: {row['disabled_reason']}")
            now = connection.execute(sa.select(sa.func.now())).scalar_one()
            values = {"enabled": enabled, "disabled_reason": None, **upcoming(timing_of(row), now, row["last_due"])}
            return complete(connection, [store(connection, row, values)])[0]

    def _write(self, connection: sa.Connection, row: Row, spec: ScheduleSpec) -> Row:
        now = connection.execute(sa.select(sa.func.now())).scalar_one()
        old = timing_of(row)
        timing = spec.timing(old.anchor_at)
        if spec.every_s != old.every_s:
            timing = replace(timing, anchor_at=_whole_second(now))
        values = columns_of(spec, now) | {"anchor_at": timing.anchor_at, "disabled_reason": None}
        values |= upcoming(timing, now, row["last_due"])
        if timing == old and spec.enabled == row["enabled"]:
            values |= {"next_due": row["next_due"], "fire_at": row["fire_at"]}
        return store(connection, row, values)

    def _now(self) -> datetime:
        with database_errors("the time is not known"), self._direct.connect() as connection:
            now: datetime = connection.execute(sa.select(sa.func.now())).scalar_one()
            return now


def _whole_second(at: datetime) -> datetime:
    return at.replace(microsecond=0)
