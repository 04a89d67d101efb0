"""
From what is known at the door to an `Ask`: which limits a request must pass, under which names in Redis. Pure.

`{instance}rate_limit:{client}:{route}`           a window of an address and route
`{instance}vkey_rate:{key id}:{route}`            windows of a key and route, by minute and by day
`{instance}vkey_rate:{key id}:tokens`             tokens of a key, over all routes
`{instance}vkey_rate:{key id}:tokens:{day}`       reservations of a key, by day since 1970
`{instance}vkey_rate:{key id}:concurrency`        tasks of a key that are accepted and not final
`{instance}vkey_rate:renewal`                     held by who renewed the leases last
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.access.limits.model import Ask, Slots, TokenBucket, Window
from core.events.access import Limits

MINUTE_S = 60
DAY_S = 86_400
ADMIN = "admin"  # no public id of a key has five characters


class LimitKeys:
    """The one place where the Redis names of limits are made."""

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def of_client(self, client: str, route: str) -> str:
        return f"{self._instance}rate_limit:{client}:{route}"

    def of_key(self, key_id: str, route: str) -> str:
        return f"{self._instance}vkey_rate:{key_id}:{route}"

    def tokens(self, key_id: str) -> str:
        return f"{self._instance}vkey_rate:{key_id}:tokens"

    def concurrency(self, key_id: str) -> str:
        return f"{self._instance}vkey_rate:{key_id}:concurrency"

    @property
    def renewal(self) -> str:
        """The lock of `ConcurrencyRenewal`."""
        return f"{self._instance}vkey_rate:renewal"


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks, and for what route.

    Args:
        route: its template, such as `/v1/tasks`: never the path, or every path would have a limit of its own.
        client: the address as limits know it (IPv6 by its /64); None: exempt, as loopback is.
        ip_rpm: requests a minute of one address to one route; 0: no limit.
    """

    route: str
    client: str | None = None
    ip_rpm: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A task about to be accepted: its public id, and the tokens it is guessed to take."""

    task_id: str
    tokens: int = 0


def ask_of_address(keys: LimitKeys, caller: Caller) -> Ask:
    """What anybody must pass; for status reads and cancels there is nothing else."""
    return Ask(windows=_of_address(keys, caller))


def ask_of_key(
    keys: LimitKeys, caller: Caller, *, key_id: str, limits: Limits, requests: int = 1, tasks: Sequence[Planned] = ()
) -> Ask:
    """
    What a request with a virtual key must pass: the address once, the key `requests` times, and room for its tasks.

    Args:
        requests: how many requests it counts for; a batch of N tasks counts N times.
        tasks: what will be accepted; a task's id is its reservation and its lease.
    """
    windows = list(_of_address(keys, caller))
    name = keys.of_key(key_id, caller.route)
    if limits.rpm is not None:
        windows.append(Window("rpm", name, limits.rpm, MINUTE_S, requests))
    if limits.rpd is not None:
        windows.append(Window("rpd", name, limits.rpd, DAY_S, requests))
    tokens = slots = None
    if limits.tpm is not None and tasks:
        held = tuple((task.task_id, task.tokens) for task in tasks)
        tokens = TokenBucket(keys.tokens(key_id), limits.tpm, sum(task.tokens for task in tasks), held)
    if limits.concurrency is not None and tasks:
        slots = Slots(keys.concurrency(key_id), limits.concurrency, tuple(task.task_id for task in tasks))
    return Ask(tuple(windows), tokens, slots)


def ask_to_verify(
    keys: LimitKeys, caller: Caller, *, key_id: str, limits: Limits, cost: int = 1, tokens: int = 0
) -> Ask:
    """What another gateway asks for a key of ours: requests, and tokens that it knows already."""
    ask = ask_of_key(keys, caller, key_id=key_id, limits=limits, requests=cost)
    if limits.tpm is None:
        return ask
    return Ask(ask.windows, TokenBucket(keys.tokens(key_id), limits.tpm, tokens), None)


def ask_of_admin(keys: LimitKeys, caller: Caller, *, admin_rpm: int) -> Ask:
    """The admin key is limited like any other credential; 0: no limit."""
    windows = _of_address(keys, caller)
    if admin_rpm:
        windows = (*windows, Window("rpm", keys.of_key(ADMIN, caller.route), admin_rpm, MINUTE_S))
    return Ask(windows)


def _of_address(keys: LimitKeys, caller: Caller) -> tuple[Window, ...]:
    if caller.client is None or caller.ip_rpm <= 0:
        return ()
    return (Window("ip", keys.of_client(caller.client, caller.route), caller.ip_rpm, MINUTE_S),)
