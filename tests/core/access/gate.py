"""A way to a server that can be shut and opened again: an outage for one test, not for its neighbours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class Gate:
    """Listens on a port of its own and hands on what comes, while it is open."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._serve()

    @property
    def url(self) -> str:
        user = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{user + '@' if user else ''}127.0.0.1:{self._port}"))

    def shut(self) -> None:
        """Nobody listens, and what was connected is cut."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((self._parts.hostname or "127.0.0.1", self._parts.port or 0))
                self._open += [near, far]
                for one, two in ((near, far), (far, near)):
                    threading.Thread(target=_hand_on, args=(one, two), daemon=True).start()


def _hand_on(one: socket.socket, two: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            two.sendall(data)
    for end in (one, two):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def gate_to(url: str) -> Generator[Gate]:
    gate = Gate(url)
    try:
        yield gate
    finally:
        gate.shut()
