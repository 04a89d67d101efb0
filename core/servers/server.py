"""
A server as a child process on 127.0.0.1: prepare, start, wait, stop.

A lock file beside each data directory is inherited by the server and all its children, so "is anything still running
on this directory" is answered by the kernel, also after a SIGKILL and whatever number a pid file shows.
Standard library only (see `core/servers/keeper.py`).
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from core.orphans import TiedProcess, become_unprivileged, can_become_unprivileged

START_S = 30.0  # crash recovery of a large database may take a while
_LEFTOVER_S = 15.0
_POLL_S = 0.01
_LOG_LIMIT_BYTES = 4 * 1024 * 1024
# Below the range from which systems take the ports of outgoing connections: a restart finds its port free again.
_PORTS = range(15_000, 32_000)


class ServerFailed(Exception):
    """A server did not start; the message ends with the last lines of its log."""


class Server(ABC):
    """
    One server on one directory. Not thread-safe; start it from a thread that lives as long as the process.

    Args:
        directory: its data; made at the first start.
        port: keep this port if it is free; 0 picks one.
    """

    name: str

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        self.directory = directory
        self.port = port
        self.process: TiedProcess | None = None
        self._log = directory.with_name(f"{self.name}.log")

    def start(self) -> None:
        """
        Begin to start; `wait_until_ready` ends it. What a dead parent left running here is stopped first.

        Raises:
            ServerFailed: the directory cannot be prepared, or a leftover does not end.
        """
        lock = self._lock_directory()
        try:
            self._prepare(lock)
            if not _is_free(self.port):
                self.port = _free_port()
            self._launch(lock)
        finally:
            os.close(lock)

    def wait_until_ready(self) -> None:
        """
        Raises:
            ServerFailed: it ended, or did not answer in 30 s.
        """
        deadline = time.monotonic() + START_S
        for attempt in range(1, 1_000_000):
            if self.is_ready():
                return
            if not self.is_alive():
                if attempt < 4 and not _is_free(self.port):  # somebody else took the port meanwhile
                    self.port = 0
                    self.start()
                    continue
                raise ServerFailed(f"{self.name} did not start: {self._log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(f"{self.name} did not answer within {START_S:.0f} s: {self._log_tail()}")
            time.sleep(_POLL_S)

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    @abstractmethod
    def url(self) -> str:
        """With its password: never log it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """It accepts connections."""

    def stop(self) -> None:
        """End it, first gently; nothing committed is lost in any case."""
        if self.process is None:
            return
        for number, patience_s in self._stop_signals():
            self.process.send_signal(number)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            break
        self.process = None

    @abstractmethod
    def _prepare(self, lock: int) -> None: ...

    @abstractmethod
    def _launch(self, lock: int) -> None: ...

    @abstractmethod
    def _stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        """Signal and how long to wait for it to work, seconds, in turn."""

    @abstractmethod
    def _recorded_pid(self) -> int | None:
        """What the server itself wrote when it started."""

    def _lock_directory(self) -> int:
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.directory.with_name(f"{self.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LEFTOVER_S
        signals = iter(self._stop_signals())
        next_signal_at = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                pass  # a server of a killed parent is ending, or must be told to
            now = time.monotonic()
            pid = self._recorded_pid()
            if now > deadline:
                os.close(lock)
                raise ServerFailed(f"{self.name}: process {pid} still uses {self.directory}; end it and try again")
            if now >= next_signal_at:
                number, patience_s = next(signals, (signal.SIGKILL, _LEFTOVER_S))
                next_signal_at = now + min(patience_s, _LEFTOVER_S / 4)
                # The lock is held, so the recorded process is ours and not a stranger with a reused number.
                if pid is not None:
                    _signal(pid, number)
            time.sleep(_POLL_S)

    def _spawn(
        self, argv: Sequence[str], lock: int, *, death_signal: signal.Signals, as_ordinary_user: bool = False
    ) -> TiedProcess:
        with self._open_log() as log:
            root = as_ordinary_user and os.geteuid() == 0
            in_namespace = root and can_become_unprivileged()
            try:
                return TiedProcess(
                    argv,
                    death_signal=death_signal,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    before_exec=become_unprivileged if in_namespace else None,
                    user="nobody" if root and not in_namespace else None,
                )
            except OSError as error:
                raise ServerFailed(f"{self.name}: cannot run {argv[0]}: {error}") from error

    def _open_log(self) -> IO[bytes]:
        too_long = self._log.exists() and self._log.stat().st_size > _LOG_LIMIT_BYTES
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if too_long else os.O_APPEND), 0o600)
        return os.fdopen(descriptor, "ab")

    def _log_tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-4:]) + f" ({self._log})"


def _free_port() -> int:
    for port in random.sample(_PORTS, 200):
        if _is_free(port):
            return port
    raise ServerFailed("no free port on 127.0.0.1 between 15000 and 32000")


def _is_free(port: int) -> bool:
    if port == 0:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)
