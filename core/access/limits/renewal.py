"""
Leases of concurrent tasks, renewed by truth: the rows that are not final.

Every 15 s one process, whichever takes the lock in Redis, reads the unfinished tasks of keys with a concurrency limit
and renews their leases. So a lease that was lost (FLUSHALL, a Redis that was away when the task was accepted) is back
within 20 s, and one that was not released ends by itself: nobody renews it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from core.access.limits.limiter import Limiter
from core.access.limits.limits_of import LimitKeys
from core.connections import RedisAway, RedisLink, autocommit, database_errors
from core.errors import StoreUnavailable

logger = logging.getLogger(__name__)

EVERY_S = 15.0  # a quarter of a lease: three rounds may be lost
LOOK_S = 2.0  # how often a process looks whether it is its turn
KEYS = 200  # in one query
MOST_TASKS = 50_000  # of those keys; what lies beyond is not renewed, and said

_LIMITED = """
SELECT key_id FROM virtual_keys
WHERE concurrency IS NOT NULL AND deleted_at IS NULL AND key_id > %(after)s ORDER BY key_id LIMIT %(limit)s
"""
# Two halves, each with an index of its own (tasks_held, tasks_deadline) in which no final row lies.
_UNFINISHED = """
SELECT owner_id, public_id FROM tasks WHERE worker_id IS NOT NULL AND owner_id = ANY(%(owners)s)
UNION ALL
SELECT owner_id, public_id FROM tasks WHERE worker_id IS NULL AND finished_at IS NULL AND owner_id = ANY(%(owners)s)
LIMIT %(limit)s
"""
_STILL_UNFINISHED = "SELECT public_id FROM tasks WHERE public_id = ANY(%(ids)s) AND finished_at IS NULL"


def renew_leases(engine: sa.Engine, limiter: Limiter, keys: LimitKeys) -> int:
    """
    One round; returns how many leases there are now.

    Raises:
        StoreUnavailable: the database did not answer; what was renewed until then is.
        RedisAway: the same, of Redis.
    """
    renewed = 0
    with database_errors("leases were not renewed"), autocommit(engine).connect() as connection:
        after = ""
        while True:
            owners = [row[0] for row in connection.exec_driver_sql(_LIMITED, {"after": after, "limit": KEYS})]
            if not owners:
                return renewed
            renewed += _renew_page(connection, limiter, keys, owners)
            after = owners[-1]


def _renew_page(connection: sa.Connection, limiter: Limiter, keys: LimitKeys, owners: Sequence[str]) -> int:
    rows = connection.exec_driver_sql(_UNFINISHED, {"owners": list(owners), "limit": MOST_TASKS}).all()
    if len(rows) == MOST_TASKS:
        logger.warning("more tasks than leases are renewed for", extra={"tasks": len(rows)})
    by_owner: dict[str, list[str]] = {}
    for owner, public_id in rows:
        by_owner.setdefault(owner, []).append(public_id)
    for owner, ids in by_owner.items():
        added = limiter.renew(keys.concurrency(owner), ids)
        if added:
            _drop_finished(connection, limiter, keys.concurrency(owner), added)
    return len(rows)


def _drop_finished(connection: sa.Connection, limiter: Limiter, slots_key: str, added: Sequence[str]) -> None:
    """
    A task may have ended, and released its lease, between our read and our write. Whoever ends after this second read
    releases after our write.
    """
    found = connection.exec_driver_sql(_STILL_UNFINISHED, {"ids": list(added)})
    unfinished = {row[0] for row in found}
    limiter.release(slots_key, [public_id for public_id in added if public_id not in unfinished])


class ConcurrencyRenewal:
    """
    `tick` it about once a second, in as many processes as there are; never raises for an absent server.

    Args:
        link: None: Redis is not used, and nothing is renewed.
    """

    def __init__(
        self,
        engine: sa.Engine,
        limiter: Limiter,
        keys: LimitKeys,
        link: RedisLink | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limiter = limiter
        self._keys = keys
        self._link = link
        self._clock = clock
        self._look_at = float("-inf")

    def tick(self) -> bool:
        """True when this call renewed."""
        if self._link is None or self._clock() < self._look_at:
            return False
        self._look_at = self._clock() + LOOK_S
        try:
            with self._link.errors() as client:
                # The end of the lock is the period; a holder that dies costs one round.
                taken = client.set(self._keys.renewal, b"1", nx=True, px=int(EVERY_S * 1000))
            if not taken:
                return False
            return self._renew(self._link)
        except RedisAway:
            return False

    def _renew(self, link: RedisLink) -> bool:
        try:
            renew_leases(self._engine, self._limiter, self._keys)
        except StoreUnavailable:
            logger.debug("leases wait for the database")
            with link.errors() as client:
                client.delete(self._keys.renewal)
            return False
        return True
