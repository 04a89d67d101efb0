"""
Who uses a data directory, told by file locks: the kernel drops them when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from core.errors import Unavailable

_PATIENCE_S = 90.0  # the longest start of the servers
_POLL_S = 0.01


class Locks:
    """The lock files of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.start = data_dir / "start.lock"
        """Held by a user while it joins or starts the servers."""
        self.users = data_dir / "users.lock"
        """Shared by every user; exclusive by the keeper once the last has gone."""
        self.keeper = data_dir / "keeper.lock"
        """Exclusive by the keeper while it lives."""


class Held:
    """An exclusive lock on a file, waited for with a deadline."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(self._file)
                    raise Unavailable(f"another process holds {self._path} for too long; try again") from None
                time.sleep(_POLL_S)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def is_held(path: Path) -> bool:
    """Somebody has it exclusively."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def is_shared(path: Path) -> bool:
    """
    Others still use the servers: no exclusive lock to be had, but a shared one.

    A keeper that is about to take its lock looks like nobody; then the caller asks again.
    """
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return not is_held(path)
    finally:
        os.close(file)
    return False
