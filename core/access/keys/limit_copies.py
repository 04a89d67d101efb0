"""
The copies of keys' limits in Redis, `{instance}vkey_ratelimits:{hash}`: five minutes, for processes that see a key for
the first time, and for whoever else shares that Redis. Losing them costs nothing: snapshots bring limits along.
"""

from __future__ import annotations

from core.access.keys.copies import limits_spec
from core.access.keys.key_limits import CountedLimits
from core.cache.cache import Cache
from core.cache.caches import Caches
from core.errors import StoreUnavailable
from core.events.access import KeysChanged


class LimitCopies:
    """Thread-safe; with Redis away every copy is missing."""

    def __init__(self, caches: Caches, instance: str) -> None:
        self.cache: Cache[CountedLimits] = caches.add(limits_spec(instance), self._load)
        self._own: dict[str, CountedLimits] = {}

    def copy(self, entry_id: str, own: CountedLimits) -> CountedLimits:
        """The copy, or `own`, which is written when there is none."""
        self._own[entry_id] = own
        try:
            return self.cache.get(entry_id) or own
        except StoreUnavailable:  # somebody else's load hangs
            return own
        finally:
            self._own.pop(entry_id, None)

    def write(self, entry_id: str, limits: CountedLimits) -> None:
        """Replace an older copy, or lengthen the life of this one."""
        self.cache.put(entry_id, limits)

    def apply(self, change: KeysChanged) -> None:
        """In memory; whoever carried the change to Redis dropped the copies there."""
        for key in change.keys:
            self.cache.drop(key.hashes, reason="key", newer_than=key.version)

    def _load(self, entry_id: str) -> CountedLimits | None:
        """What the caller knows. None: the caller was served by another's load meanwhile; nothing is remembered."""
        return self._own.get(entry_id)
