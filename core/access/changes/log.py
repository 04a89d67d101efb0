"""
The change log in Redis: a capped stream of changes with an unbroken sequence, and the epoch in which it is unbroken.

| key | holds |
|---|---|
| `{instance}changes` | stream; entry `{seq}-0`: `id` of the row or "", `change` (JSON) or `gap`; or `canary`, `by` |
| `{instance}changes:seq` | hash {epoch, seq, run_id}: `run_id` of the Redis process that this epoch belongs to |
| `{instance}changes:canary` | lock of whoever appended the newest canary, 0.9 s |
| `{instance}changes` | channel: the newest sequence, after each append; losing it costs a second |
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from core.access.changes.log_scripts import ANNOUNCE, READ
from core.connections import RedisLink, run_script
from core.events.access import Change, ChangedKey, IpFiltersChanged, KeysChanged

logger = logging.getLogger(__name__)

_ANNOUNCE_SHA = hashlib.sha1(ANNOUNCE.encode(), usedforsecurity=False).hexdigest()
_READ_SHA = hashlib.sha1(READ.encode(), usedforsecurity=False).hexdigest()

MOST_KEYS = 1_000  # of one script: some milliseconds in which Redis does nothing else
MOST_READ = 256  # entries of one answer


class LogKeys:
    """The one place where the names are made."""

    def __init__(self, instance: str) -> None:
        self.log = instance + "changes"
        self.head = instance + "changes:seq"
        self.canary = instance + "changes:canary"
        self.channel = self.log
        self.filters = instance + "ip_filters"
        self._limits = instance + "vkey_ratelimits:"

    def copies(self, changed: ChangedKey) -> list[str]:
        """What Redis may hold of a virtual key."""
        return [name + h for h in changed.hashes for name in ("vkey:", self._limits)]


@dataclass(frozen=True, slots=True)
class Appended:
    """
    What is to be written: the change, and its text as the log holds it.

    Args:
        id: of its row; empty: it has none.
        text: None: too large for the log, whose readers then forget everything.
    """

    id: str
    change: Change | None
    text: bytes | None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log: one of `change` (JSON), `canary_us` (Redis time) and a gap, which is neither."""

    seq: int
    id: str = ""
    change: bytes | None = None
    canary_us: int | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """Args: now_us: Redis time at the reading."""

    epoch: str
    seq: int
    now_us: int
    entries: tuple[Entry, ...]


class ChangeLog:
    """Thread-safe. Every method raises RedisAway when Redis does not answer, or refuses."""

    def __init__(self, link: RedisLink, keys: LogKeys) -> None:
        self._link = link
        self._keys = keys
        self._warned_at = float("-inf")

    @property
    def is_away(self) -> bool:
        """It failed so lately that it would not be asked."""
        return self._link.is_away

    def append(self, items: Sequence[Appended]) -> None:
        """Drop the copies in Redis, append to the log, wake everybody: one step, or a few for very many keys."""
        words: list[str | bytes] = []
        for item in items:
            words.extend((item.id, "gap", "1") if item.text is None else (item.id, "change", item.text))
        self._drop_copies(items, words)

    def bury(self, items: Sequence[Appended]) -> None:
        """Only drop the copies in Redis; nobody is told."""
        self._drop_copies(items, [])

    def read(self, epoch: str, position: int, *, canary_by: str = "") -> Reading:
        """
        What was appended after `position`, at most `MOST_READ` entries; begins a new epoch when there must be one.

        Args:
            epoch: in which `position` was; empty: none is known, and no entries are given.
            canary_by: name of the caller, who wants a canary to be appended about once a second.
        """
        keys = [self._keys.log, self._keys.head, self._keys.canary]
        answer = self._run(READ, _READ_SHA, keys, [_new_epoch(), epoch, position, MOST_READ, canary_by])
        name, seq, now_us, entries = cast("tuple[bytes, bytes, bytes, list[Any]]", answer)
        return Reading(name.decode(), int(seq), int(now_us), tuple(_entry(at, fields) for at, fields in entries))

    def _drop_copies(self, items: Sequence[Appended], words: list[str | bytes]) -> None:
        graves = self._graves(items)
        # Readers are told last: who hears of a change finds no older copy in Redis.
        while len(graves) > MOST_KEYS:
            self._announce(graves[:MOST_KEYS], [])
            graves = graves[MOST_KEYS:]
        if graves or words:
            self._announce(graves, words)

    def _graves(self, items: Sequence[Appended]) -> list[tuple[str, int]]:
        """The copies that changes make old, and the version from which on one is not."""
        graves: dict[str, int] = {}
        for item in items:
            if isinstance(item.change, KeysChanged):
                for changed in item.change.keys:
                    for key in self._keys.copies(changed):
                        graves[key] = max(changed.version, graves.get(key, 0))
            elif isinstance(item.change, IpFiltersChanged):
                graves[self._keys.filters] = max(item.change.version, graves.get(self._keys.filters, 0))
        return list(graves.items())

    def _announce(self, graves: Sequence[tuple[str, int]], words: Sequence[str | bytes]) -> None:
        keys = [self._keys.log, self._keys.head, *(key for key, _ in graves)]
        versions = [version for _, version in graves]
        self._run(ANNOUNCE, _ANNOUNCE_SHA, keys, [_new_epoch(), "", 0, len(graves), *versions, *words])

    def _run(self, script: str, sha: str, keys: list[Any], arguments: list[Any]) -> Any:
        with self._link.errors() as client:
            try:
                return run_script(client, script, sha, keys, arguments)
            except redis.ResponseError as error:
                # E.g. a Redis user that may not use INFO. Going on without the log is safe, only slower.
                self._refused(error)
                raise redis.ConnectionError("the change log was refused") from error

    def _refused(self, error: redis.ResponseError) -> None:
        now = time.monotonic()
        if now - self._warned_at > 60:
            self._warned_at = now
            logger.error("redis refuses the change log; rights change by the database alone: %s", error)


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _entry(at: bytes, fields: list[bytes]) -> Entry:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    seq = int(at.partition(b"-")[0])
    if b"canary" in values:
        return Entry(seq, canary_us=int(values[b"canary"]), by=values.get(b"by", b"").decode())
    return Entry(seq, values.get(b"id", b"").decode(), values.get(b"change"))
