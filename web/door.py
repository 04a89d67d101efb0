"""
Who is calling: the virtual key of a request, checked against the database and remembered for four seconds.

A disabled key is refused within five seconds at worst (law 6); the announcement of the change makes it milliseconds.
Refusal needs proof (law 7): when the truth cannot be read, the answer is 503.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from core.access.key_text import public_part
from core.access.model import VirtualKey
from core.connections import database_errors
from web.problems import Unauthenticated
from web.threads import Threads

K = TypeVar("K")
V = TypeVar("V")

VALID_S = 4.0  # from before the read: with the read's own deadline inside the law's five seconds
UNKNOWN_S = 1.0  # a wrong key that is sent over and over costs one query a second
REMEMBERED = 10_000
UNKNOWN_REMEMBERED = 1_000
_BEARER = b"bearer "
_LONGEST_TOKEN = 200  # ours have 77 characters
_ID = slice(3, 15)  # of `hr_` + 12 characters


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    key: VirtualKey
    until: float


class Door:
    """
    Args:
        authenticate: asks the database; None is proof that the key is not valid.
        threads: for keys that were valid a moment ago.
        strangers: for all others; few, so that a flood of invented keys does not keep out those who belong here.
    """

    def __init__(
        self, authenticate: Callable[[str], VirtualKey | None], threads: Threads, *, strangers: Threads
    ) -> None:
        self._authenticate = authenticate
        self._threads = threads
        self._strangers = strangers
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[VirtualKey | None]] = {}
        self._changes = 0

    async def enter(self, authorization: bytes | None) -> VirtualKey:
        """
        The key on whose behalf the request acts.

        Args:
            authorization: the header's value.

        Raises:
            Unauthenticated: no key, or proof that it is not valid.
            Unavailable: could not find out.
        """
        token = _token(authorization)
        # Clear keys are not kept in memory: what is remembered is a hash.
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(token[_ID])
        is_familiar = known is not None and hmac.compare_digest(known.digest, digest)
        if known is not None and is_familiar and known.until > time.monotonic():
            return known.key
        return await self._ask(token, digest, self._threads if is_familiar else self._strangers)

    def forget(self, key_id: str) -> None:
        """The key was changed: what is known of it, and what is being read now, does not count."""
        self._changes += 1
        self._known.pop(key_id, None)

    def forget_all(self) -> None:
        """Announcements may have been lost."""
        self._changes += 1
        self._known.clear()
        self._unknown.clear()

    async def _ask(self, token: str, digest: bytes, threads: Threads) -> VirtualKey:
        if public_part(token) is None or self._unknown.get(digest, 0.0) > time.monotonic():
            raise Unauthenticated
        flight = self._flights.get(digest)
        if flight is None:
            flight = asyncio.create_task(self._read(token, digest, threads))
            self._flights[digest] = flight
            flight.add_done_callback(lambda _: self._flights.pop(digest, None))
        # Shielded: a caller that leaves must not take the answer from the others.
        key = await asyncio.shield(flight)
        if key is None:
            raise Unauthenticated
        return key

    async def _read(self, token: str, digest: bytes, threads: Threads) -> VirtualKey | None:
        began, changes = time.monotonic(), self._changes

        def ask() -> VirtualKey | None:
            with database_errors("the key was not checked"):
                return self._authenticate(token)

        key = await threads.run(ask, failure="the key was not checked")
        if key is None:
            _remember(self._unknown, digest, began + UNKNOWN_S, UNKNOWN_REMEMBERED)
            return None
        if changes == self._changes:
            _remember(self._known, token[_ID], _Known(digest, key, began + VALID_S), REMEMBERED)
        return key


def _token(authorization: bytes | None) -> str:
    if authorization is None or authorization[:7].lower() != _BEARER:
        raise Unauthenticated
    token = authorization[7:].strip()
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        raise Unauthenticated
    return token.decode("ascii")


def _remember(entries: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    entries[key] = value
    entries.move_to_end(key)
    while len(entries) > most:
        entries.popitem(last=False)
