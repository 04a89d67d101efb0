"""Valkey (or Redis) on a directory of ours."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from core.servers.server import Server


class ValkeyServer(Server):
    """
    Durable to the last second (AOF, everysec), and never evicts: bells and caches share it on one machine.

    Args:
        program: `valkey-server` or `redis-server`.
    """

    name = "valkey"

    def __init__(self, directory: Path, *, program: Path, password: str, port: int = 0) -> None:
        super().__init__(directory, port=port)
        self._program = program
        self._password = password

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    piece = connection.recv(256)
                    if not piece:
                        return False
                    answer += piece
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"  # -LOADING while it reads its file

    def _prepare(self, lock: int) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def _launch(self, lock: int) -> None:
        quoted = str(self.directory).replace("\\", "\\\\").replace('"', '\\"')
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f'dir "{quoted}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "databases 16",
            f"requirepass {self._password}",
            f'pidfile "{quoted}/valkey.pid"',
            "loglevel warning",
            "set-proc-title no",  # its command line keeps telling whose server it is
        ]
        # A file, because other users of the machine can read a command line.
        config = self.directory / "valkey.conf"
        config.unlink(missing_ok=True)
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        self.process = self._spawn([str(self._program), str(config)], lock, death_signal=signal.SIGTERM)

    def _stop_signals(self) -> Sequence[tuple[signal.Signals, float]]:
        return (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)

    def _recorded_pid(self) -> int | None:
        try:
            text = (self.directory / "valkey.pid").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdigit() else None
