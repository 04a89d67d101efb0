"""What passes between a process and Redis: commands that arrive, and answers that are lost on the way."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import redis


@contextmanager
def heard_commands(url: str) -> Generator[list[dict[str, Any]]]:
    """
    Every command that the server gets from clients inside the block, in any database; known when the block ends.

    `{"db": 4, "command": "GET a", ...}`; what scripts call is not in it.
    """
    found: list[dict[str, Any]] = []
    mark = secrets.token_hex(8)
    with redis.Redis.from_url(url) as client, redis.Redis.from_url(url) as other:
        other.ping()
        with client.monitor() as monitor:
            yield found
            other.echo(mark)
            while True:
                command: dict[str, Any] = monitor.next_command()
                if mark in command["command"]:
                    return
                if command["client_type"] != "lua":
                    found.append(command)


class LossyWire:
    """
    A way to Redis that can lose answers: the command arrives, and the connection ends without a word.

    `url` leads through it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}").geturl()
        self.loses_scripts = False
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(self._target, timeout=10) as far:
            while asked := near.recv(1 << 16):
                far.sendall(asked)
                answer = far.recv(1 << 16)
                if self.loses_scripts and b"EVAL" in asked and not answer.startswith(b"-NOSCRIPT"):
                    return
                near.sendall(answer)
