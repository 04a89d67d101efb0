"""What one process believes of virtual keys: a copy in memory and one in Redis, kept by nothing but the watch."""

from __future__ import annotations

import threading
import time
from collections import Counter

import sqlalchemy as sa

from core.access.tables import virtual_keys
from core.app import App
from core.connections import autocommit
from core.events.access import KeysChanged
from core.ids import KeyId


class Rights:
    """
    A cache as simple as can be, without any life of its copies: what it believes wrongly, it believes for ever.

    `may_use` answers from memory while the watch is current, else from the table.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._engine = autocommit(app.engine)
        self._copies: dict[str, bool] = {}
        self._forgotten = 0
        self._lock = threading.Lock()
        self.gaps = 0
        self.heard: Counter[str] = Counter()
        self.heard_at: dict[tuple[str, int], float] = {}
        app.watch.listen(KeysChanged, self._hear)
        app.watch.on_gap(self._forget)

    def may_use(self, key_id: str) -> bool:
        """Raises: what a database that is away makes SQLAlchemy raise."""
        if self._app.watch.is_current():
            with self._lock:
                copy, forgotten = self._copies.get(key_id), self._forgotten
            if copy is not None:
                return copy
        else:
            forgotten = -1
        with self._engine.connect() as connection:
            query = sa.select(virtual_keys.c.disabled_at).where(virtual_keys.c.key_id == key_id)
            enabled = connection.execute(query).scalar_one() is None
        with self._lock:
            if forgotten == self._forgotten:  # else a change was heard meanwhile
                self._copies[key_id] = enabled
        return enabled

    def is_remembered(self, key_id: str) -> bool:
        return key_id in self._copies

    def _hear(self, change: KeysChanged) -> None:
        now = time.monotonic()
        with self._lock:
            self._forgotten += 1
            for key in change.keys:
                self._copies.pop(key.key_id, None)
                self.heard[key.key_id] += 1
                self.heard_at.setdefault((key.key_id, key.version), now)

    def _forget(self) -> None:
        with self._lock:
            self._forgotten += 1
            self._copies.clear()
            self.gaps += 1


def disable_unheard(app: App, key_id: KeyId) -> None:
    """As an operator would in SQL, or a process that is killed right after its commit: nobody is told."""
    _execute(app, "UPDATE virtual_keys SET disabled_at = now() WHERE key_id = :id", key_id)


def enable_unheard(app: App, key_id: KeyId) -> None:
    _execute(app, "UPDATE virtual_keys SET disabled_at = NULL WHERE key_id = :id", key_id)


def _execute(app: App, statement: str, key_id: KeyId) -> None:
    with autocommit(app.engine).connect() as connection:
        connection.execute(sa.text(statement), {"id": key_id})
