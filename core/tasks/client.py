"""
What producers and pollers call: enqueue, get, wait, cancel, retry, list.

An enqueue returns after the commit (law 1); the bell to the workers follows it and may be lost (law 2). Every method
takes `owner`: with it, another owner's task is TaskNotFound; None is the operator's view.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from core.access.keys.owners import Owners
from core.access.keys.permissions import named_model
from core.cache.counters import Counters
from core.connections import autocommit, database_errors
from core.errors import TaskIsFinal, TaskNotFound, TaskNotRetryable
from core.ids import KeyId, PublicId, is_public_id
from core.task_types.spec import TaskInput, TaskTypes
from core.tasks import accept, archive, queries, store
from core.tasks.accept import Idempotency
from core.tasks.acceptance import BULK, Acceptance, Accepted, check_idempotency_key, idempotency_of
from core.tasks.bells import LateRinger, RedisBells
from core.tasks.model import NewTask, Stamp, Task, TaskState, load_json
from core.tasks.queries import TaskPage
from core.tasks.queues import KnownQueues
from core.tasks.status import Status, StatusCopies, StatusReader
from core.tasks.validation import DEFAULT_OPTIONS, TaskOptions, build, build_raw

_SESSION_TASKS = "headrace: tasks accepted in this transaction"


@dataclass(frozen=True, slots=True)
class CancelReceipt:
    """`took_effect` False: a worker runs it and was asked to stop; a finish already on its way still wins."""

    task: Task
    took_effect: bool


class TaskClient:
    """The tasks of one deployment. Thread-safe."""

    def __init__(
        self,
        engine: sa.Engine,
        *,
        types: TaskTypes,
        owners: Owners,
        queues: KnownQueues,
        copies: StatusCopies,
        bells: RedisBells,
        check_model: Callable[[TaskInput], None],
        status_counters: Counters | None = None,
    ) -> None:
        self._engine = engine
        self._direct = autocommit(engine)
        self._types = types
        self._owners = owners
        self._queues = queues
        self._copies = copies
        self._bells = LateRinger(bells)
        self._check_model = check_model
        self.statuses = StatusReader(copies, self.read_row, counters=status_counters)
        self._acceptance = Acceptance(engine, self._ring)

    # --- accept -------------------------------------------------------------------------------------------------

    def enqueue(
        self,
        input: TaskInput,
        *,
        owner: str,
        queue: str = DEFAULT_OPTIONS.queue,
        priority: int = DEFAULT_OPTIONS.priority,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        deadline: timedelta | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        session: Session | None = None,
    ) -> Task:
        """
        Accept one task.

        Args:
            owner: public id of a virtual key.
            session: accept inside this session's transaction, which the caller commits. Call it last in it: the
                owner's rank row stays locked until then.

        Raises:
            InvalidRequest: a field is out of bounds, the queue or owner is unknown, or the model is known not to do it.
            NotAllowed: the owner's key is disabled or expired, or may not use the type or the model.
            IdempotencyMismatch: the key was used for another task.
            StoreUnavailable: not known to be accepted; send it again with the same idempotency key.
        """
        options = TaskOptions(
            queue=queue,
            priority=priority,
            run_at=run_at,
            max_attempts=max_attempts,
            deadline=deadline,
            metadata=metadata,
        )
        task = self._build(input, owner, options)
        idempotency = None if idempotency_key is None else idempotency_of(idempotency_key, [task])
        if session is not None:
            return self._accept_in(session, task, idempotency)
        return self.accept([task], idempotency).tasks[0]

    def enqueue_many(
        self, inputs: Sequence[TaskInput], *, owner: str, options: TaskOptions = DEFAULT_OPTIONS
    ) -> list[Task]:
        """Accept all or none, in one transaction; tasks come back in the order of `inputs`."""
        tasks = [self._build(input, owner, options) for input in inputs]
        if not tasks:
            return []
        with database_errors("no task was accepted"), self._engine.begin() as connection:
            times = [accept.insert(connection, tasks[start : start + BULK]) for start in range(0, len(tasks), BULK)]
        self._ring(tasks)
        return [accept.as_accepted(task, times[0]) for task in tasks]

    def accept(self, tasks: Sequence[NewTask], idempotency: Idempotency | None = None) -> Accepted:
        """Accept validated tasks, all or none, together with what other threads accept now."""
        return self._acceptance.write(tasks, idempotency)

    def submit(self, tasks: Sequence[NewTask], idempotency: Idempotency | None = None) -> Future[Accepted]:
        """As `accept`, for an event loop."""
        return self._acceptance.submit(tasks, idempotency)

    def replay(self, idempotency: Idempotency, *, owner: str) -> Accepted | None:
        """
        What an earlier request with this key had accepted, without accepting anything; None: there was none.

        Raises:
            IdempotencyMismatch: the key was used for another body.
        """
        with (
            database_errors("it is not known what the idempotency key stands for"),
            self._direct.connect() as connection,
        ):
            known = accept.recall(connection, idempotency, owner=KeyId(owner))
            return None if known is None else Accepted(queries.by_ids(connection, known.task_ids), replayed=True)

    def check_queue(self, name: str) -> None:
        """
        Raises:
            UnknownQueue: no such queue.
        """
        self._queues.check(name)

    def _build(self, input: TaskInput, owner: str, options: TaskOptions) -> NewTask:
        self._queues.check(options.queue)
        self._owners.check(owner, input.task_type, named_model(input))
        self._check_model(input)
        return build(self._types.get(input.task_type), input, owner=KeyId(owner), options=options)

    def _accept_in(self, session: Session, task: NewTask, idempotency: Idempotency | None) -> Task:
        with database_errors("the task was not accepted; roll the session back"):
            connection = session.connection()
            if idempotency is not None:
                replayed = accept.remember(connection, idempotency, owner=task.owner_id, ids=[task.id])
                if replayed is not None:
                    return queries.by_ids(connection, replayed.task_ids)[0]
            accepted_at = accept.insert(connection, [task])
        self._ring_after_commit(session, task)
        return accept.as_accepted(task, accepted_at)

    def _ring_after_commit(self, session: Session, task: NewTask) -> None:
        waiting: list[NewTask] | None = session.info.get(_SESSION_TASKS)
        if waiting is not None:
            waiting.append(task)
            return
        accepted = session.info[_SESSION_TASKS] = [task]

        def ring(_: Session) -> None:
            self._ring(accepted)
            accepted.clear()

        def forget(_: Session) -> None:
            accepted.clear()

        event.listen(session, "after_commit", ring)
        event.listen(session, "after_rollback", forget)

    def _ring(self, tasks: Sequence[NewTask]) -> None:
        for queue in {task.queue for task in tasks if task.run_at is None}:
            self._bells.ring(queue)

    # --- read ---------------------------------------------------------------------------------------------------

    def read_row(self, public_id: PublicId) -> Task | None:
        """The task from PostgreSQL, live or archived."""
        with database_errors("the task was not read"), self._direct.connect() as connection:
            return queries.by_public_id(connection, public_id) or archive.find(connection, public_id)

    def status(self, public_id: str, *, owner: str | None = None, at_least: Stamp | None = None) -> Status:
        """
        The task's wire form as bytes, and where it was answered from.

        Raises:
            TaskNotFound: no such task, or not this owner's.
            StoreUnavailable: the database had to be asked and did not answer.
        """
        status = self.statuses.read(PublicId(public_id), at_least=at_least) if is_public_id(public_id) else None
        if status is None or (owner is not None and status.owner_id != owner):
            raise _not_found(public_id)
        return status

    def get(self, public_id: str, *, owner: str | None = None) -> dict[str, Any]:
        """The task as in the HTTP contract: `{"id", "type", "state", "result", ...}`, at most a second old."""
        task: dict[str, Any] = load_json(self.status(public_id, owner=owner).body)
        return task

    def wait(
        self, public_id: str, *, owner: str | None = None, timeout: timedelta = timedelta(seconds=60)
    ) -> dict[str, Any]:
        """The task when it is final, or as it is when the time is up."""
        deadline = time.monotonic() + timeout.total_seconds()
        pause_s = 0.01
        while True:
            status = self.status(public_id, owner=owner)
            left = deadline - time.monotonic()
            if status.is_final or left <= 0:
                task: dict[str, Any] = load_json(status.body)
                return task
            time.sleep(min(pause_s, left))
            pause_s = min(pause_s * 1.5, 0.5)

    def list(
        self,
        *,
        owner: str | None = None,
        state: TaskState | None = None,
        type: str | None = None,
        queue: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> TaskPage:
        """A page of tasks, newest first, from the database."""
        with database_errors("the tasks were not read"), self._direct.connect() as connection:
            return queries.page(
                connection, owner=owner, state=state, type=type, queue=queue, limit=limit, cursor=cursor
            )

    # --- change -------------------------------------------------------------------------------------------------

    def cancel(self, public_id: str, *, owner: str | None = None) -> CancelReceipt:
        """
        Cancel a task: at once when nobody runs it, else by asking its worker.

        Raises:
            TaskNotFound: no such task, or not this owner's.
            TaskIsFinal: it ended otherwise before.
        """
        if not is_public_id(public_id):
            raise _not_found(public_id)
        with database_errors("the task was not cancelled"), self._direct.connect() as connection:
            done = store.cancel(connection, PublicId(public_id), owner=owner)
            if done is None:
                return self._cancel_final(connection, public_id, owner)
            if done.worker_id is not None:
                self._bells.cancel(done.worker_id, done.task.public_id)
                return CancelReceipt(done.task, took_effect=False)
            if self._copies.announce([done.task]):
                store.settle(connection, [done.event])
        return CancelReceipt(done.task, took_effect=True)

    def _cancel_final(self, connection: sa.Connection, public_id: str, owner: str | None) -> CancelReceipt:
        found = PublicId(public_id)
        task = queries.by_public_id(connection, found) or archive.find(connection, found)
        if task is None or (owner is not None and task.owner_id != owner):
            raise _not_found(public_id)
        if task.state is not TaskState.CANCELLED:
            raise TaskIsFinal(f"task {public_id} is {task.state}; a final state cannot be left")
        return CancelReceipt(task, took_effect=True)

    def retry(self, public_id: str, *, owner: str | None = None, idempotency_key: str | None = None) -> Task:
        """
        Run a failed, cancelled or timed-out task again, as a new task linked to it by `retry_of`.

        Args:
            idempotency_key: the same key again gives the first retry's task and makes no other.

        Raises:
            TaskNotFound: no such task, or not this owner's.
            TaskNotRetryable: it is not final, or it completed.
            NotAllowed: the owner's key is disabled or expired, or may not have such a task any more.
        """
        task, idempotency = self.prepare_retry(public_id, owner=owner, idempotency_key=idempotency_key)
        return self.accept([task], idempotency).tasks[0]

    def prepare_retry(
        self, public_id: str, *, owner: str | None = None, idempotency_key: str | None = None
    ) -> tuple[NewTask, Idempotency | None]:
        """What `retry` would accept: for a caller with limits to pass before it is."""
        if not is_public_id(public_id):
            raise _not_found(public_id)
        with database_errors("the task was not retried"), self._direct.connect() as connection:
            found = queries.with_input(connection, PublicId(public_id), owner=owner)
        if found is None:
            raise _not_found(public_id)
        old, input_json, deadline_s = found
        if not old.state.is_final:
            raise TaskNotRetryable(f"task {public_id} is {old.state}: it can be retried once it is final")
        if old.state is TaskState.COMPLETED:
            raise TaskNotRetryable(f"task {public_id} completed; enqueue a new task to run it again")
        self._owners.check(old.owner_id, old.type, named_model(orjson.loads(input_json)))
        options = TaskOptions(
            queue=old.queue,
            priority=old.priority,
            max_attempts=old.max_attempts,
            deadline=timedelta(seconds=deadline_s),
            metadata=orjson.loads(old.metadata_json),
            retry_of=old.public_id,
        )
        task = build_raw(self._types.get(old.type), input_json, owner=old.owner_id, options=options)
        if idempotency_key is None:
            return task, None
        check_idempotency_key(idempotency_key)
        return task, Idempotency.of(idempotency_key, f"retry:{public_id}".encode())

    def close(self) -> None:
        self._acceptance.close()
        self._bells.close()


def _not_found(public_id: str) -> TaskNotFound:
    return TaskNotFound(f"no task {public_id[:60]!r}")
