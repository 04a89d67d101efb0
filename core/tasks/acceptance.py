"""
Accepts of many threads, committed in groups: what a producer is told 202 for is on disk by then.

Requests without an idempotency key share one statement. As soon as one of a batch has a key, the batch is one
transaction that first writes the keys down, in their order, and leaves out the requests whose keys are known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime

import orjson
import sqlalchemy as sa
from sqlalchemy import exc

from core.connections import OUTAGES, autocommit, for_accepts, is_lock_timeout
from core.errors import Conflict, InvalidRequest, StoreUnavailable
from core.tasks import accept, queries
from core.tasks.accept import Idempotency
from core.tasks.group_commit import GroupCommit
from core.tasks.model import NewTask, Task

ACCEPT_TIMEOUT_S = 1.5  # with connecting and answering inside the API's two seconds
BULK = 1000  # tasks in one statement: larger ones gain nothing and hold locks longer
MAX_IDEMPOTENCY_KEY = 255
HELD_S = 5.0  # how long an owner whose rows were found locked is written apart from the others
HELD_LOCK_MS = 20  # and how long its rows are waited for meanwhile


@dataclass(frozen=True, slots=True)
class Accepted:
    """`replayed`: the idempotency key was seen before, and these are the tasks as they are now."""

    tasks: list[Task]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    tasks: Sequence[NewTask]
    idempotency: Idempotency | None


class Acceptance:
    """
    The door to the table of tasks. Thread-safe.

    Args:
        accepted: called after the commit with what was inserted, to ring the bells; must not raise.
    """

    def __init__(self, engine: sa.Engine, accepted: Callable[[Sequence[NewTask]], None]) -> None:
        self._engine = for_accepts(engine)
        self._direct = autocommit(self._engine)
        self._held: dict[str, float] = {}
        self._accepted = accepted
        self._group: GroupCommit[_Request, Accepted] = GroupCommit(
            self._commit, name="accepts", weigh=lambda request: len(request.tasks), max_batch=BULK
        )

    def write(self, tasks: Sequence[NewTask], idempotency: Idempotency | None) -> Accepted:
        """
        Accept validated tasks of one owner, all or none.

        Raises:
            IdempotencyMismatch: the key was used for another body.
            StoreUnavailable: no answer in time; the same key tells later what became of it.
        """
        return self._group.write(_Request(tasks, idempotency), timeout_s=ACCEPT_TIMEOUT_S)

    def submit(self, tasks: Sequence[NewTask], idempotency: Idempotency | None) -> Future[Accepted]:
        """As `write`, for an event loop."""
        return self._group.submit(_Request(tasks, idempotency))

    def close(self) -> None:
        self._group.close(ACCEPT_TIMEOUT_S)
        self._engine.dispose()

    def _commit(self, requests: list[_Request]) -> Sequence[Accepted | Exception]:
        """All in one transaction; owners whose rows somebody keeps locked apart from the others, and briefly."""
        results: dict[int, Accepted | Exception] = {}
        for places, is_held in self._parts(requests):
            part = [requests[place] for place in places]
            results.update(zip(places, self._commit_part(part, is_held=is_held), strict=True))
        ordered = [results[place] for place in range(len(requests))]
        self._accepted(_fresh(requests, ordered))
        return ordered

    def _parts(self, requests: Sequence[_Request]) -> list[tuple[list[int], bool]]:
        now = time.monotonic()
        self._held = {owner: until for owner, until in self._held.items() if until > now}
        by_owner: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            owner = request.tasks[0].owner_id
            by_owner.setdefault(owner if owner in self._held else "", []).append(place)
        together = by_owner.pop("", [])
        return ([(together, False)] if together else []) + [(places, True) for places in by_owner.values()]

    def _commit_part(self, requests: list[_Request], *, is_held: bool) -> Sequence[Accepted | Exception]:
        try:
            if not is_held and not any(request.idempotency for request in requests):
                with self._direct.connect() as connection:
                    accepted_at = accept.insert(connection, [task for r in requests for task in r.tasks])
                return [_accepted(request, accepted_at) for request in requests]
            with self._engine.begin() as connection:
                if is_held:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{HELD_LOCK_MS}ms'")
                return self._commit_with_keys(connection, requests)
        except exc.DBAPIError as error:
            if not is_lock_timeout(error):
                if isinstance(error, OUTAGES):
                    raise _unknown() from error
                raise
            return self._commit_apart(requests, is_held=is_held)
        except OUTAGES as error:
            raise _unknown() from error

    def _commit_apart(self, requests: list[_Request], *, is_held: bool) -> Sequence[Accepted | Exception]:
        """Somebody's transaction keeps a row of one of these owners: find out whose, let the others pass."""
        owners = {request.tasks[0].owner_id for request in requests}
        if is_held or len(owners) == 1:
            for owner in owners:
                self._held[owner] = time.monotonic() + HELD_S
            refused = StoreUnavailable(
                "an open transaction keeps this key's rows; nothing was accepted", retry_after_s=1
            )
            return [refused] * len(requests)
        results: dict[int, Accepted | Exception] = {}
        for owner in sorted(owners):
            places = [place for place, request in enumerate(requests) if request.tasks[0].owner_id == owner]
            part = self._commit_part([requests[place] for place in places], is_held=True)
            results.update(zip(places, part, strict=True))
        return [results[place] for place in range(len(requests))]

    def _commit_with_keys(self, connection: sa.Connection, requests: list[_Request]) -> list[Accepted | Exception]:
        """A request whose key is known takes no part in the batch."""
        results: dict[int, Accepted | Exception] = {}
        later: list[int] = []
        seen: set[tuple[str, str]] = set()
        fresh: list[int] = []
        # In the order of the keys: two batches that share keys must not wait for each other in a ring.
        for place in sorted(range(len(requests)), key=lambda i: _key_of(requests[i])):
            request = requests[place]
            if request.idempotency is None:
                fresh.append(place)
                continue
            if _key_of(request) in seen:
                later.append(place)  # the same key twice in one batch: answered from the first's rows
                continue
            seen.add(_key_of(request))
            outcome = self._remember(connection, request)
            if outcome is None:
                fresh.append(place)
            else:
                results[place] = outcome
        fresh.sort()
        new = [task for place in fresh for task in requests[place].tasks]
        if new:
            accepted_at = accept.insert(connection, new)
            results.update({place: _accepted(requests[place], accepted_at) for place in fresh})
        for place in later:
            results[place] = self._remember(connection, requests[place]) or Conflict("idempotency key vanished")
        return [results[place] for place in range(len(requests))]

    def _remember(self, connection: sa.Connection, request: _Request) -> Accepted | Exception | None:
        if request.idempotency is None:
            raise ValueError("only requests with a key are remembered")
        owner = request.tasks[0].owner_id
        try:
            replayed = accept.remember(
                connection, request.idempotency, owner=owner, ids=[task.id for task in request.tasks]
            )
        except Conflict as error:
            return error
        return None if replayed is None else Accepted(queries.by_ids(connection, replayed.task_ids), replayed=True)


def check_idempotency_key(key: str) -> None:
    """
    Raises:
        InvalidRequest: empty, over 255 characters, or not printable ASCII.
    """
    if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY or not (key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"Idempotency-Key: 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters", field="Idempotency-Key"
        )


def idempotency_of(key: str, tasks: Sequence[NewTask]) -> Idempotency:
    check_idempotency_key(key)
    body = [
        [
            t.type,
            t.input_json,
            t.queue,
            t.priority,
            t.run_at,
            t.max_attempts,
            t.deadline.total_seconds(),
            t.metadata_json,
        ]
        for t in tasks
    ]
    return Idempotency.of(key, canonical_bytes(body))


def canonical_bytes(body: object) -> bytes:
    """Equal requests give equal bytes: keys sorted, no white space."""
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def _key_of(request: _Request) -> tuple[str, str]:
    return (request.tasks[0].owner_id, request.idempotency.key) if request.idempotency else ("", "")


def _accepted(request: _Request, accepted_at: datetime) -> Accepted:
    return Accepted([accept.as_accepted(task, accepted_at) for task in request.tasks])


def _fresh(requests: Sequence[_Request], results: Sequence[Accepted | Exception]) -> list[NewTask]:
    """What was inserted now: not what was replayed or refused."""
    return [
        task
        for request, result in zip(requests, results, strict=True)
        if isinstance(result, Accepted) and not result.replayed
        for task in request.tasks
    ]


def _unknown() -> StoreUnavailable:
    return StoreUnavailable("the database did not answer; it is not known what was accepted")
