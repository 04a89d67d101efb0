"""
The process that holds the embedded servers of one data directory, for as long as anybody uses them.

Users hold a shared lock on `users.lock`; the kernel drops it when they end, however they end. The keeper waits for the
exclusive lock: when it gets it nobody is left, and it stops Valkey, then PostgreSQL. So the servers belong to no user:
the one that started them may leave first, and a SIGKILL of all users leaves nothing behind. A server that dies is
started again on its port. If the keeper itself is killed, the servers are told so by the kernel (`core/orphans.py`).

It is started as `python -I -S` with its orders as JSON on stdin (so no secret is in a command line), answers with one
line of JSON on stdout, and has a session of its own: signals to the user's process group do not reach it.
Standard library only: it costs 25 ms and 12 MB.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TypedDict

from core.servers.locks import Locks
from core.servers.postgres import PostgresServer
from core.servers.server import Server, ServerFailed
from core.servers.valkey import ValkeyServer

_WATCH_S = 0.25  # how often it looks whether a server died
_RESTART_PAUSE_S = 2.0


class PostgresOrder(TypedDict):
    programs: str
    password: str
    port: int
    options: dict[str, str]


class ValkeyOrder(TypedDict):
    program: str
    password: str
    port: int


class Orders(TypedDict):
    """What the keeper reads. A port of 0 picks one; the last known one keeps clients' URLs valid."""

    data_dir: str
    postgres: PostgresOrder | None
    valkey: ValkeyOrder | None


def main() -> int:
    os.umask(0o077)
    orders: Orders = json.load(sys.stdin)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Platforms signal every process at shutdown; we go when our users have gone. (Not SIG_IGN: it is inherited.)
        signal.signal(number, _go_on)
    data_dir = Path(orders["data_dir"])
    locks = Locks(data_dir)
    life = os.open(locks.keeper, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(life, fcntl.LOCK_EX)
    servers = _servers(orders, data_dir)
    try:
        _start(servers)
    except ServerFailed as error:
        _stop(servers)
        _answer({"error": str(error)})
        return 1
    record = data_dir / "servers.json"
    _write_record(record, servers)
    _answer({"ready": True})
    unused = threading.Event()
    threading.Thread(target=_await_last_user, args=(locks.users, unused), daemon=True).start()
    while not unused.wait(_WATCH_S):
        if _restart_dead(servers):
            _write_record(record, servers)
    _stop(servers)
    record.unlink(missing_ok=True)
    return 0


def _go_on(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _servers(orders: Orders, data_dir: Path) -> list[Server]:
    """In the order of starting."""
    servers: list[Server] = []
    postgres, valkey = orders["postgres"], orders["valkey"]
    if postgres is not None:
        servers.append(
            PostgresServer(
                data_dir / "postgres",
                programs=Path(postgres["programs"]),
                password=postgres["password"],
                port=postgres["port"],
                options=postgres["options"],
            )
        )
    if valkey is not None:
        servers.append(
            ValkeyServer(
                data_dir / "valkey",
                program=Path(valkey["program"]),
                password=valkey["password"],
                port=valkey["port"],
            )
        )
    return servers


def _start(servers: list[Server]) -> None:
    for server in servers:
        server.start()
    for server in servers:
        server.wait_until_ready()


def _stop(servers: list[Server]) -> None:
    for server in reversed(servers):
        server.stop()


def _restart_dead(servers: list[Server]) -> bool:
    dead = [server for server in servers if not server.is_alive()]
    for server in dead:
        _say(f"{server.name} ended unexpectedly; starting it again on port {server.port}")
        try:
            server.start()
            server.wait_until_ready()
        except ServerFailed as error:
            _say(f"{server.name}: {error}")
            time.sleep(_RESTART_PAUSE_S)
    return bool(dead)


def _await_last_user(users: Path, unused: threading.Event) -> None:
    lock = os.open(users, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unused.set()  # the lock stays held to the end of the process: whoever comes now waits and starts afresh


def _write_record(path: Path, servers: list[Server]) -> None:
    """`{"keeper": pid, "postgres": {"pid", "port", "url"}, "valkey": {...}}`, readable by the owner alone."""
    record: dict[str, object] = {"keeper": os.getpid()}
    for server in servers:
        pid = None if server.process is None else server.process.pid
        record[server.name] = {"pid": pid, "port": server.port, "url": server.url}
    write_private(path, json.dumps(record, indent=1))


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; mode 0600 from its first moment."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _answer(answer: Mapping[str, object]) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the user that asked has died; the lock tells whether others remain
    # Let go of the pipe, so that nobody waits for its end; a later write must not raise.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _say(text: str) -> None:
    """To the keeper's log (stderr)."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    sys.stderr.write(f"{stamp}Z {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
