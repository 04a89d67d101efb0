"""
The Redis tier: entries of all processes, ordered by version; tombstones keep out what slow readers bring late.

Everything here raises RedisAway when Redis does not answer; the cache treats that as a miss.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import redis

from core.cache import scripts
from core.cache.counters import Counters
from core.cache.envelope import Corrupt, Envelope, OldEpoch, Tombstone
from core.cache.memory import jittered
from core.cache.spec import CacheSpec
from core.connections import RedisLink

V = TypeVar("V")

LOCK_MS = 3000  # longer than a load that is not about to fail
_MOST_KEYS = 500  # of one script call: others wait for Redis meanwhile
_ANY_DROP = "*"


@dataclass(frozen=True, slots=True)
class Reading(Generic[V]):
    """
    Args:
        value: None: a miss.
        drop: that was seen; to be given to `put` with what is loaded after this.
    """

    value: V | None
    drop: str = ""


class RedisTier(Generic[V]):
    """
    Args:
        keys: of the MAC, from `mac_keys`, for a cache that grants rights.
    """

    def __init__(self, spec: CacheSpec[V], link: RedisLink, counters: Counters, keys: Sequence[bytes] = ()) -> None:
        self._spec = spec
        self._link = link
        self._counters = counters
        self._envelope = Envelope(spec.name, keys)

    def read(self, id: str, *, epoch: str | None = None) -> Reading[V]:
        """
        The entry, or a miss; what is not ours is deleted and counted.

        Raises:
            RedisAway: it is not known.
        """
        key = self._spec.key(id)
        with self._link.errors() as client:
            try:
                text: Any = client.get(key)
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                self._discard(client, key, b"")
                self._counters.corrupt.add()
                return Reading(None)
            return Reading(None) if text is None else self._opened(client, id, text, epoch)

    def claim(self, id: str, token: str, *, epoch: str | None = None) -> tuple[Reading[V], bool]:
        """
        Read again after a miss, and take the lock of the load when it is free: (the reading, whether it is ours now).

        Raises:
            RedisAway: it is not known.
        """
        key = self._spec.key(id)
        with self._link.errors() as client:
            text, taken = cast("tuple[bytes, int]", scripts.CLAIM.run(client, [key, lock_of(key)], [token, LOCK_MS]))
            return Reading(None) if not text else self._opened(client, id, text, epoch), taken == 1

    def release(self, id: str, token: str) -> None:
        """Give the lock back when nothing was stored."""
        with self._link.errors() as client:
            self._discard(client, lock_of(self._spec.key(id)), token.encode())

    def put(self, id: str, value: V, *, epoch: str | None = None, drop: str | None = None, token: str = "") -> bool:
        """
        False: a newer one is there, or was announced; or the entry was dropped since `drop` was seen; or its life is
        over.

        Args:
            drop: of the reading before the load; None: the value was not loaded after one.
            token: of the lock, which is given back.
        """
        spec = self._spec
        key = spec.key(id)
        rest_s = spec.life_s(value)
        life_s = jittered(spec.ttl_s) if rest_s is None else min(jittered(spec.ttl_s), rest_s)
        with self._link.errors() as client:
            if life_s < 0.001:
                if token:
                    self._discard(client, lock_of(key), token.encode())
                return False
            version = spec.version(value)
            text = self._envelope.seal(id, version, spec.encode(value), epoch)
            seen = _ANY_DROP if drop is None else drop
            stored: Any = scripts.PUT.run(client, [key, lock_of(key)], [version, text, int(life_s * 1000), seen, token])
            return bool(stored)

    def drop(self, ids: Sequence[str], *, newer_than: int | None = None) -> int:
        """
        Leave tombstones; how many entries changed.

        Args:
            newer_than: entries of this version and later ones stay.
        """
        changed = 0
        drop = secrets.token_hex(4) if newer_than is None else ""
        keys = [self._spec.key(id) for id in ids]
        with self._link.errors() as client:
            for start in range(0, len(keys), _MOST_KEYS):
                arguments: list[Any] = ["" if newer_than is None else newer_than, drop]
                changed += int(scripts.DROP.run(client, list(keys[start : start + _MOST_KEYS]), arguments))
        return changed

    def _opened(self, client: redis.Redis, id: str, text: bytes, epoch: str | None) -> Reading[V]:
        try:
            found = self._envelope.open(id, text, epoch)
            if isinstance(found, Tombstone):
                return Reading(None, found.drop)
            version, encoded = found
            value = self._spec.decode(encoded)
            if self._spec.version(value) != version:
                raise Corrupt("another version inside")
        except OldEpoch:
            self._counters.old_epoch.add()
        except (Corrupt, ValueError, KeyError, TypeError):
            self._counters.corrupt.add()
        else:
            return Reading(value)
        self._discard(client, self._spec.key(id), text)
        return Reading(None)

    def _discard(self, client: redis.Redis, key: str, text: bytes) -> None:
        scripts.DISCARD.run(client, [key], [text])


def lock_of(key: str) -> str:
    return key + ":lock"
