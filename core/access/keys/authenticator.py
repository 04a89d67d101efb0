"""
From a clear key to the virtual key that it opens: memory, then Redis, then the database.

A refusal is proof (law 7): what could not be found out is an exception. Whether a key is enabled, and its time not
over, is looked at on every hit, so no copy outlives it. Memory holds hashes and snapshots, never a clear key.

Copies are found by digests of the whole key: its SHA-256 leads to the name of its copy in memory, and that name is its
HMAC under the pepper. What the time of a dictionary look-up may tell is about digests, and who tries keys cannot steer
those bit by bit, nor come from part of a digest to 256 random bits: that is why no comparison in constant time is
needed here, as there is one where rows are compared.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from core.access.keys.copies import KEYS_REMEMBERED, keys_spec
from core.access.keys.gate import Gate
from core.access.keys.model import VirtualKey
from core.access.keys.peppers import Peppers, Presented
from core.access.keys.virtual_keys import VirtualKeys
from core.cache.cache import Cache
from core.cache.caches import Caches
from core.connections import database_errors
from core.errors import StoreUnavailable
from core.events.access import KeysChanged

LONGEST_KEY = 200  # ours have 77 characters


class Outcome(StrEnum):
    """What became of a key that was shown. Callers of the API are told no difference between the last four (S5)."""

    OK = "ok"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    """No such key, a wrong or replaced secret, a deleted key, or one hashed with a pepper that is gone."""
    DISABLED = "disabled"
    """The secret is right: only who has the whole key, or is an operator, may hear this."""
    EXPIRED = "expired"
    """As DISABLED."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """
    Args:
        key: None unless `outcome` is ok.
        refused: the key that is disabled or has expired, for operators.
    """

    outcome: Outcome
    key: VirtualKey | None = None
    refused: VirtualKey | None = None


_MALFORMED = Authentication(Outcome.MALFORMED)
_UNKNOWN = Authentication(Outcome.UNKNOWN)


class _NotToBeKept(Exception):
    """
    The key was found by a hash that is not the entry's name, and stays so for now (the database takes no writes, or
    processes with other peppers run beside this one). Changes are told by the hashes in the row: a copy would not hear
    of them, so none is made.
    """

    def __init__(self, key: VirtualKey) -> None:
        super().__init__("a key under another pepper")
        self.key = key


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Those who wait for one look-up; a clear key is not among what is kept of it."""

    presented: Presented
    is_familiar: bool
    count: int = 1


class Authenticator:
    """
    Thread-safe; `peek` and `known_refused` do no I/O.

    Args:
        learn: called with the entry's id and the key when a key that opens the door was found beyond memory.
    """

    def __init__(
        self,
        caches: Caches,
        keys: VirtualKeys,
        peppers: Peppers,
        *,
        learn: Callable[[str, VirtualKey], None] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.cache: Cache[VirtualKey] = caches.add(keys_spec(), self._load)
        self._keys = keys
        self._peppers = peppers
        self._learn = learn
        self._gate = gate or Gate()
        self._waiting: dict[str, _Waiting] = {}
        # SHA-256 of keys that were right lately -> the name of their copies: an HMAC costs four times as much.
        self._familiar: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def peek(self, clear_key: str) -> VirtualKey | None:
        """The key from memory, when it opens the door now; None: ask `authenticate`. A few microseconds."""
        if not clear_key.isascii():
            return None
        entry_id = self._familiar.get(_digest(clear_key))
        if entry_id is None:
            return None
        key = self.cache.peek(entry_id)
        if key is None or (key.disabled_at is None and key.expires_at is None and key.secret_until is None):
            return key
        return key if key.grants(datetime.now(UTC)) else None

    def known_refused(self, clear_key: str) -> Authentication | None:
        """The answer, when it is known without I/O that the key opens nothing; None: ask `authenticate`."""
        presented = self._present(clear_key)
        if presented is None:
            return _MALFORMED
        entry_id = presented.hashes[self._peppers.current].hex()
        if self.cache.known_missing(entry_id):
            return _UNKNOWN
        key = self.cache.peek(entry_id)
        found = None if key is None else _judged(key)
        return found if found is not None and found.key is None else None

    def authenticate(self, clear_key: str) -> Authentication:
        """
        A malformed key costs no I/O, an unknown one at most one query in ten seconds.

        Raises:
            StoreUnavailable: neither a copy nor the row could be read.
            Unavailable: too many unknown keys are being looked up.
        """
        presented = self._present(clear_key)
        if presented is None:
            return _MALFORMED
        entry_id = presented.hashes[self._peppers.current].hex()
        digest = _digest(clear_key)
        key = self.cache.peek(entry_id)
        is_news = key is None
        if key is None:
            key = self._get(entry_id, presented, is_familiar=digest in self._familiar)
        if key is None:
            return _UNKNOWN
        self._remember(digest, entry_id)
        found = _judged(key)
        if is_news and found.key is not None and self._learn is not None:
            self._learn(entry_id, key)
        return found

    @property
    def waiting(self) -> int:
        """Keys that are being looked up."""
        return len(self._waiting)

    def apply(self, change: KeysChanged) -> None:
        """Forget the copies of keys that changed; a load under way does not count."""
        for key in change.keys:
            self.cache.drop(key.hashes, reason="key", newer_than=key.version)

    def is_familiar(self, clear_key: str) -> bool:
        """Whether this process knew the key lately: its look-up should not wait behind those of strangers."""
        return clear_key.isascii() and _digest(clear_key) in self._familiar

    def _present(self, clear_key: str) -> Presented | None:
        return self._peppers.present(clear_key) if len(clear_key) <= LONGEST_KEY else None

    def _get(self, entry_id: str, presented: Presented, *, is_familiar: bool) -> VirtualKey | None:
        with self._lock:
            others = self._waiting.get(entry_id)
            own = _Waiting(presented, is_familiar)
            self._waiting[entry_id] = own if others is None else replace(others, count=others.count + 1)
        key: VirtualKey | None
        try:
            key = self.cache.get(entry_id)
        except _NotToBeKept as found:
            key = found.key
        finally:
            with self._lock:
                others = self._waiting.pop(entry_id)
                if others.count > 1:
                    self._waiting[entry_id] = replace(others, count=others.count - 1)
        return key

    def _load(self, entry_id: str) -> VirtualKey | None:
        """
        The loader of the cache: by the public id and the hashes of the one who asks, since a row may be hashed with an
        older pepper than the entry is named by.
        """
        with self._lock:
            waiting = self._waiting.get(entry_id)
        if waiting is None:
            raise StoreUnavailable("nobody asks for this key any more; the key was not checked")
        if not waiting.is_familiar:
            self._gate.enter()
        with database_errors("the key was not checked"):
            found = self._keys.look_up(waiting.presented)
        if found.key is not None and found.pepper_version != self._peppers.current:
            raise _NotToBeKept(found.key)
        return found.key

    def _remember(self, digest: bytes, entry_id: str) -> None:
        with self._lock:
            self._familiar[digest] = entry_id
            self._familiar.move_to_end(digest)
            while len(self._familiar) > KEYS_REMEMBERED:
                self._familiar.popitem(last=False)


def _digest(clear_key: str) -> bytes:
    return hashlib.sha256(clear_key.encode()).digest()


def _judged(key: VirtualKey) -> Authentication:
    now = datetime.now(UTC)
    if key.grants(now):
        return Authentication(Outcome.OK, key)
    if key.secret_until is not None and now >= key.secret_until:
        return _UNKNOWN  # the secret is not right any more, whatever else the key is
    outcome = Outcome.EXPIRED if key.is_enabled else Outcome.DISABLED
    return Authentication(outcome, refused=key)
