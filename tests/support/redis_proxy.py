"""A way to Redis that swallows every published message, and lets everything else pass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


@contextmanager
def swallowing_messages(url: str) -> Generator[str]:
    """The URL of the way; on a connection that subscribed, nothing comes back after the confirmation."""
    parts = urlsplit(url)
    target = (parts.hostname or "127.0.0.1", parts.port or 6379)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, target), daemon=True).start()
    try:
        host = f"{parts.username or ''}:{parts.password or ''}@127.0.0.1:{listener.getsockname()[1]}"
        yield urlunsplit(parts._replace(netloc=host))
    finally:
        listener.close()


def _accept(listener: socket.socket, target: tuple[str, int]) -> None:
    with suppress(OSError):  # closed
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(target)
            swallows = threading.Event()
            threading.Thread(target=_forward, args=(client, server, swallows), daemon=True).start()
            threading.Thread(target=_back, args=(server, client, swallows), daemon=True).start()


def _forward(client: socket.socket, server: socket.socket, swallows: threading.Event) -> None:
    with suppress(OSError), client, server:
        while data := client.recv(65536):
            if b"SUBSCRIBE" in data.upper():
                swallows.set()
            server.sendall(data)


def _back(server: socket.socket, client: socket.socket, swallows: threading.Event) -> None:
    with suppress(OSError), client, server:
        while data := server.recv(65536):
            if not (swallows.is_set() and b"message" in data):
                client.sendall(data)
