"""
The queues there are: rows, added by migrations, by `headrace queues` and by workers that serve them.

Known names are remembered in memory; an unknown one is looked up, so what a new worker brought is found at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from core.errors import InvalidRequest, UnknownQueue
from core.schema import queues

_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")


@dataclass(frozen=True, slots=True)
class Queue:
    """`max_slots` None: all threads of a process."""

    name: str
    reserved_slots: int
    max_slots: int | None


def load(connection: sa.Connection) -> list[Queue]:
    rows = connection.execute(sa.select(queues.c.name, queues.c.reserved_slots, queues.c.max_slots).order_by("name"))
    return [Queue(*row) for row in rows]


def with_solo_tasks(connection: sa.Connection, types: Sequence[str]) -> set[str]:
    """Queues in which a task of these types waits to be run alone, after it took down two processes."""
    rows = connection.exec_driver_sql(
        """SELECT q.name FROM queues q WHERE EXISTS (
            SELECT 1 FROM tasks t WHERE t.ready AND t.solo AND t.queue = q.name AND t.type = ANY(%(types)s))""",
        {"types": list(types)},
    )
    return {row[0] for row in rows}


def add(connection: sa.Connection, names: Iterable[str]) -> None:
    """
    Make sure that these queues exist.

    Raises:
        InvalidRequest: a name is not lower-case letters, digits, `-` and `_`, up to 64 characters.
    """
    wanted = sorted(set(names))
    for name in wanted:
        check_name(name)
    if not wanted:
        return
    connection.exec_driver_sql(
        """INSERT INTO queues (name, reserved_slots, virtual_time, created_at)
        SELECT name, 0, 0, now() FROM unnest(%(names)s::text[]) AS n(name) ORDER BY 1 ON CONFLICT DO NOTHING""",
        {"names": wanted},
    )


def check_name(name: str) -> None:
    """
    Raises:
        InvalidRequest: says which characters a queue's name may have.
    """
    if not _NAME.match(name):
        raise InvalidRequest(f"queue name {name!r}: use lower-case letters, digits, - and _", field="queue")


def advance(connection: sa.Connection, highest: Sequence[tuple[str, int]]) -> None:
    """Raise the virtual time of queues to the highest rank claimed; never lowers it."""
    connection.exec_driver_sql(
        """WITH v AS (SELECT * FROM unnest(%(names)s::text[], %(ranks)s::bigint[]) AS v(name, rank)),
        held AS (SELECT q.name, v.rank FROM queues q JOIN v USING (name) WHERE q.virtual_time < v.rank
            ORDER BY q.name FOR UPDATE OF q)
        UPDATE queues q SET virtual_time = greatest(q.virtual_time, h.rank) FROM held h WHERE q.name = h.name""",
        {"names": [name for name, _ in highest], "ranks": [rank for _, rank in highest]},
    )


class KnownQueues:
    """Checks a producer's queue name. Thread-safe."""

    def __init__(self, read: Callable[[], list[Queue]]) -> None:
        self._read = read
        self._names: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def check(self, name: str) -> None:
        """
        Raises:
            UnknownQueue: names the queues there are.
            StoreUnavailable: the name is new to us and the database did not answer.
        """
        if name in self._names:
            return
        with self._lock:
            if name not in self._names:
                self._names = frozenset(queue.name for queue in self._read())
            names = self._names
        if name not in names:
            known = ", ".join(sorted(names)[:20])
            raise UnknownQueue(f"unknown queue {name!r}; there are: {known}", field="queue")
