"""
Limits of requests: all that one request must pass is decided in one Lua call, all or nothing.

With Redis away this process decides alone, as `limits_without_redis` says:

- `share`: by its part of every limit, which is the limit divided by the live web processes. Parts below one take turns.
- `open`: everything passes. open: an outage must not stop paid traffic.
- `closed`: everything that has a limit is refused. closed: whoever sets it prefers no answer to one too many.

Neither side knows what the other counted, so in the window in which the deciding side changes up to twice the limit may
pass: once by Redis, once by the shares. Tokens reserved and tasks begun on the other side are not seen either; leases
come back by `ConcurrencyRenewal`. When Redis answers again, it decides again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from core.access.limits import script as limit_script
from core.access.limits.local_limiter import LocalLimiter
from core.access.limits.model import ALLOWED, LARGEST, LEASE_S, Ask, Decision
from core.access.limits.script import Script
from core.connections import RedisAway, RedisLink, run_script

logger = logging.getLogger(__name__)

UNAVAILABLE = "limits_unavailable"
CLOSED = Decision(False, refused_by=UNAVAILABLE, retry_after_s=2, is_local=True)
OPEN = Decision(True, is_local=True)
MOST_ENDED = 500  # tasks in one call; Lua's `unpack` takes some thousands
MOST_LEASES = 1000


@dataclass(frozen=True, slots=True)
class Ended:
    """
    A task that became final.

    Args:
        used: tokens it really took, None: as estimated; asked for only when a reservation of it is found.
    """

    tokens_key: str
    slots_key: str
    task_id: str
    used: Callable[[], int | None]


class Fallback:
    """
    Who decides while Redis is away, and one log line for each change. Thread-safe.

    Args:
        policy: `share`, `open` or `closed`.
    """

    def __init__(self, policy: str, local: LocalLimiter) -> None:
        if policy not in ("share", "open", "closed"):
            raise ValueError(f"limits_without_redis: {policy!r} is not share, open or closed")
        self._policy = policy
        self.local = local
        self._is_away = False
        self._lock = threading.Lock()

    def decide(self, ask: Ask) -> Decision:
        """By the policy; also notes that Redis is away."""
        if not self._is_away:
            with self._lock:
                changed, self._is_away = not self._is_away, True
            if changed:
                logger.warning("redis does not decide limits now", extra={"policy": self._policy})
        if self._policy == "share":
            return self.local.decide(ask)
        return OPEN if self._policy == "open" else CLOSED

    def redis_answered(self) -> None:
        if self._is_away:
            with self._lock:
                changed, self._is_away = self._is_away, False
            if changed:
                logger.warning("redis decides limits again")


class Limiter:
    """
    Thread-safe. Its twin on an event loop is `web/limits.py`.

    Args:
        link: None: as if Redis were away for good (HEADRACE_CACHE=memory).
    """

    def __init__(self, link: RedisLink | None, fallback: Fallback) -> None:
        self._link = link
        self.fallback = fallback

    def decide(self, ask: Ask, *, now: float | None = None) -> Decision:
        """
        Take everything the ask wants, or nothing.

        Args:
            now: Unix time, seconds, for tests; None: the time of Redis.
        """
        if ask.is_empty:
            return ALLOWED
        keys, arguments = limit_script.call_of((ask,), now)
        try:
            answer = self._run(limit_script.DECIDE, keys, arguments)
        except RedisAway:
            return self.fallback.decide(ask)
        self.fallback.redis_answered()
        return limit_script.decisions_from((ask,), answer)[0]

    def settle(self, redis_key: str, reservation: str, used: int, *, now: float | None = None) -> bool:
        """
        Correct a reservation by what was used: gives back, or takes more, down to minus one capacity.

        False when there is none of that id: settled before, expired, or made while Redis was away. Nothing changes
        then, so settling twice is harmless.
        """
        if self.fallback.local.settle(redis_key, reservation, used):
            return True
        try:
            settled = self._run(limit_script.SETTLE, [redis_key], [_now(now), reservation, min(LARGEST, max(0, used))])
        except RedisAway:
            return False
        return bool(settled)

    def release(self, redis_key: str, leases: Sequence[str]) -> None:
        """End leases; those that are not there are none the less. With Redis away they end by themselves."""
        self.fallback.local.release(redis_key, leases)
        try:
            for start in range(0, len(leases), MOST_LEASES):
                part = leases[start : start + MOST_LEASES]
                self._run(limit_script.END, ["", redis_key], ["", len(part), *part])
        except RedisAway:
            return

    def renew(
        self, redis_key: str, leases: Sequence[str], *, lease_s: float = LEASE_S, now: float | None = None
    ) -> list[str]:
        """
        Let leases last for another `lease_s` from now; those that are gone are taken again, whatever the limit.

        Returns the ones that were gone.

        Raises:
            RedisAway: nothing is known to have been renewed.
        """
        added: list[str] = []
        for start in range(0, len(leases), MOST_LEASES):
            part = leases[start : start + MOST_LEASES]
            found = self._run(limit_script.RENEW, [redis_key], limit_script.renewal_of(part, now, lease_s))
            added.extend(lease.decode() for lease in found)
        return added

    def end(self, tasks: Sequence[Ended]) -> None:
        """
        The leases and reservations of final tasks: one call for all, a second one when there are reservations.

        Doing it again changes nothing. With Redis away nothing is done: leases end within a minute, and a reservation
        that is never settled stays as it was estimated.
        """
        try:
            for start in range(0, len(tasks), MOST_ENDED):
                self._end(tasks[start : start + MOST_ENDED])
        except RedisAway:
            return

    def _end(self, tasks: Sequence[Ended]) -> None:
        owners: dict[tuple[str, str], list[str]] = {}
        for task in tasks:
            owners.setdefault((task.tokens_key, task.slots_key), []).append(task.task_id)
        keys = [key for owner in owners for key in owner]
        arguments: list[str | int | float] = [""]
        for ids in owners.values():
            arguments.append(len(ids))
            arguments.extend(ids)
        found = {task_id.decode() for task_id in self._run(limit_script.END, keys, arguments)}
        held = [task for task in tasks if task.task_id in found]
        if held:
            settling: list[str | int | float] = [""]
            for task in held:
                used = task.used()
                settling.extend((task.task_id, "" if used is None else min(LARGEST, max(0, used))))
            self._run(limit_script.SETTLE, [task.tokens_key for task in held], settling)

    def _run(self, script: Script, keys: list[str], arguments: list[str | int | float]) -> Any:
        if self._link is None:
            raise RedisAway("not used in this process")
        with self._link.errors() as client:
            return run_script(client, script.text, script.sha, keys, arguments)


def _now(now: float | None) -> str:
    return "" if now is None else repr(now)
