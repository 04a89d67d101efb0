"""
What one process believes of virtual keys, by a cache of two tiers that only the watch keeps right.

Run as a program it is such a process: `may {hash}` on its standard input is answered `yes`, `no` or `away`.
"""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import orjson
import sqlalchemy as sa

from core.access.tables import virtual_keys
from core.app import App, open_app
from core.cache.cache import Cache
from core.cache.spec import CacheSpec
from core.connections import autocommit, database_errors
from core.errors import Unavailable
from core.events.access import KeysChanged
from core.ids import KeyId
from core.settings import Settings, child_environment, load_settings

CHECKOUT = Path(__file__).resolve().parents[2]
LONG_S = 3600.0  # no test lasts so long: a wrong copy is not saved by its own end

Entry = tuple[int, bool]
"""Version and whether the key is enabled."""

SPEC: CacheSpec[Entry] = CacheSpec(
    name="rights_of_a_test",
    key=lambda key_hash: f"vkey:{key_hash}",
    encode=orjson.dumps,
    decode=lambda text: (int(orjson.loads(text)[0]), bool(orjson.loads(text)[1])),
    version=lambda entry: entry[0],
    ttl_s=LONG_S,
    memory_s=LONG_S,
    memory_entries=1000,
    grants_rights=True,
    dropped_by=(KeysChanged,),
)


class Rights:
    """The cache of one process. Thread-safe."""

    def __init__(self, app: App) -> None:
        self._engine = autocommit(app.engine)
        self._lock = threading.Lock()
        self.cache: Cache[Entry] = app.access.caches.add(SPEC, self._load)
        self.gaps = 0
        self.heard: Counter[str] = Counter()
        self.heard_at: dict[tuple[str, int], float] = {}
        app.access.watch.listen(KeysChanged, self._hear)
        app.access.watch.on_gap(self._count_gap)

    def may_use(self, key_hash: str) -> bool:
        """Raises StoreUnavailable: nobody could say."""
        entry = self.cache.get(key_hash)
        return entry is not None and entry[1]

    def _load(self, key_hash: str) -> Entry | None:
        c = virtual_keys.c
        query = sa.select(c.version, c.disabled_at).where(c.key_hash == bytes.fromhex(key_hash))
        with database_errors("the key was not read"), self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row[0], row[1] is None)

    def _hear(self, change: KeysChanged) -> None:
        now = time.monotonic()
        for key in change.keys:
            self.cache.drop(key.hashes, reason="key changed", newer_than=key.version)
            with self._lock:
                self.heard[key.key_id] += 1
                self.heard_at.setdefault((key.key_id, key.version), now)

    def _count_gap(self) -> None:
        self.gaps += 1


class RightsProcess:
    """Another process, as a test sees it."""

    def __init__(self, settings: Settings, log: Path) -> None:
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.rights"],
                cwd=CHECKOUT,
                env=child_environment(settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def ask(self, key_hash: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"may {key_hash}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def has_answered(self, timeout_s: float) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], timeout_s)[0])

    def may(self, key_hash: str) -> str:
        """`yes`, `no`, or `away`: it could not be found out."""
        self.ask(key_hash)
        return self.answer()


@contextmanager
def rights_process(settings: Settings, log: Path) -> Generator[RightsProcess]:
    child = RightsProcess(settings, log)
    try:
        assert child.answer() == "ready", log.read_text(encoding="utf-8")
        yield child
    finally:
        child.process.kill()
        child.process.communicate()


def hash_of(app: App, key_id: KeyId) -> str:
    with autocommit(app.engine).connect() as connection:
        query = sa.select(virtual_keys.c.key_hash).where(virtual_keys.c.key_id == key_id)
        return bytes(connection.execute(query).scalar_one()).hex()


def new_key(app: App) -> tuple[KeyId, str]:
    """Its id and hash; told everywhere."""
    key_id = app.keys.create("of a test").key_id
    app.access.changes.relay()
    return key_id, hash_of(app, key_id)


def disable_unheard(app: App, key_id: KeyId) -> None:
    """As an operator would in SQL, or a process that is killed right after its commit: nobody is told."""
    _execute(app, "UPDATE virtual_keys SET disabled_at = now() WHERE key_id = :id", key_id)


def enable_unheard(app: App, key_id: KeyId) -> None:
    _execute(app, "UPDATE virtual_keys SET disabled_at = NULL WHERE key_id = :id", key_id)


def _execute(app: App, statement: str, key_id: KeyId) -> None:
    with autocommit(app.engine).connect() as connection:
        connection.execute(sa.text(statement), {"id": key_id})


def main() -> None:
    with open_app(load_settings()) as app:
        rights = Rights(app)
        app.access.watch.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for line in sys.stdin:
            try:
                answer = "yes" if rights.may_use(line.split()[1]) else "no"
            except Unavailable:
                answer = "away"
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
