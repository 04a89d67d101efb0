"""Servers of one's own that can be hung (SIGSTOP to all their processes) or ended for a while."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import OperationalError

from core.app import App
from core.errors import StoreUnavailable
from core.settings import Settings

ANSWER_S = 2.3  # the contract's two seconds, and the machine's own slowness


def is_answering(app: App) -> bool:
    """Whether the database is back, and no connection of the pool is still the old server's."""
    try:
        app.check()
        app.keys.list()
    except (StoreUnavailable, OperationalError):
        return False
    return True


class OwnServers:
    """The processes behind a data directory, as its record names them."""

    def __init__(self, settings: Settings) -> None:
        self._record = settings.data_dir / "servers.json"

    def pid(self, name: str) -> int:
        """Of `postgres`, `valkey`, or their `keeper`."""
        entry = json.loads(self._record.read_text(encoding="utf-8"))[name]
        return int(entry if isinstance(entry, int) else entry["pid"])

    @contextmanager
    def hung(self, name: str) -> Generator[None]:
        """The server accepts connections (the kernel does) and answers nothing."""
        with _stopped(_tree(self.pid(name))):
            yield

    @contextmanager
    def ended(self, name: str) -> Generator[None]:
        """The server is gone; afterwards its keeper starts it again."""
        with _stopped([self.pid("keeper")]):
            _signal(_tree(self.pid(name)), signal.SIGKILL)
            yield


@contextmanager
def _stopped(pids: list[int]) -> Generator[None]:
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _tree(root: int) -> list[int]:
    """A process and all below it, parents first."""
    parents: dict[int, int] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
