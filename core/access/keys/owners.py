"""
On whose behalf a producer in this installation, or a schedule, asks for tasks: the key's row, at most two seconds old.

The HTTP door has copies of its own (`authenticator.py`), by the secret. Here there is none: who runs Python
beside the database is trusted to say whose task it is, but a key that is disabled, expired or deleted gets no new ones,
and no key gets what it may not have (law 6).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from core.access.keys.model import VirtualKey
from core.access.keys.permissions import check_allowed, check_usable
from core.access.keys.virtual_keys import VirtualKeys
from core.connections import database_errors
from core.errors import InvalidRequest
from core.events.access import KeysChanged

FRESH_S = 2.0  # far inside the law's five seconds, and one query in two seconds for a burst of enqueues
_REMEMBERED = 10_000


class Owners:
    """Thread-safe."""

    def __init__(self, keys: VirtualKeys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._known: OrderedDict[str, tuple[VirtualKey, float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, owner: str, task_type: str, model: str | None) -> VirtualKey:
        """
        The owner's key, which may have such a task.

        Raises:
            InvalidRequest: there is no such key; `field` is `owner`.
            NotAllowed: the key is disabled or expired, or may not use the type or the model.
            StoreUnavailable: could not find out.
        """
        key = self._fresh(owner)
        check_usable(key, datetime.now(UTC))
        check_allowed(key, task_type, model)
        return key

    def apply(self, change: KeysChanged) -> None:
        """Where a watch runs, a change counts at once. A read under way may bring the old row back, for two seconds."""
        with self._lock:
            for key in change.keys:
                self._known.pop(key.key_id, None)

    def forget_all(self) -> None:
        with self._lock:
            self._known.clear()

    def _fresh(self, owner: str) -> VirtualKey:
        found = self._known.get(owner)
        if found is not None and found[1] > self._clock():
            return found[0]
        began = self._clock()
        with database_errors("the owner was not checked"):
            key = self._keys.find(owner)
        if key is None:
            raise InvalidRequest(
                f"owner: no virtual key {owner[:60]!r}; `headrace keys list` shows them", field="owner"
            )
        with self._lock:
            self._known[owner] = key, began + FRESH_S
            self._known.move_to_end(owner)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return key
