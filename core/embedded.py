"""
Where PostgreSQL and Redis come from: the URLs that were given, or servers of our own under the data directory.

Each server is resolved by itself: URL -> program from the wheel -> program on PATH -> one clear error. Everybody who
opens one data directory shares its servers; they end when the last user has (`core/servers/keeper.py`).
Secrets that nobody set are made once and kept in `secrets.json` (0600), but only for a database of our own: with a
DATABASE_URL a lost data directory would make every key in that database worthless, so then they must be given.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from pydantic import SecretStr

from core.access.keys.peppers import Peppers
from core.errors import Misconfigured, Unavailable
from core.sealing import new_key
from core.servers.keeper import Orders, PostgresOrder, ValkeyOrder, write_private
from core.servers.locks import Held, Locks, is_held, is_shared
from core.servers.programs import postgres_programs, valkey_program
from core.settings import Settings, default_broker_url

_ROOT = Path(__file__).resolve().parents[1]
_START_S = 90.0  # initdb and crash recovery on a slow, busy disk
_LEAVE_S = 15.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Servers:
    """URLs with their passwords: never log them."""

    database_url: str
    redis_url: str
    broker_url: str


class Secrets(TypedDict):
    """`secrets.json`: what this installation made up for itself."""

    admin_key: str
    key_pepper: str
    encryption_key: str
    postgres_password: str
    valkey_password: str


class _Running(TypedDict):
    pid: int
    port: int
    url: str


class _Record(TypedDict, total=False):
    keeper: int
    postgres: _Running
    valkey: _Running


@contextmanager
def open_servers(settings: Settings) -> Generator[Settings]:
    """
    Yield the settings with every URL and secret filled in; start what is missing for as long as it is used.

    With all URLs given nothing is started and nothing is written.

    Raises:
        Misconfigured: a secret is missing beside a DATABASE_URL, or there is no program to start.
        Unavailable: a server did not start.
    """
    if settings.database_url is not None and settings.redis_url is not None:
        yield _completed(settings, _given(settings), made=None)
        return
    servers = EmbeddedServers(settings)
    try:
        yield servers.settings
    finally:
        servers.close()


class EmbeddedServers:
    """This process as a user of the data directory's servers."""

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is not None:
            _require_secrets(settings)
        self._given = settings
        self._data_dir = settings.data_dir.resolve()
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks = Locks(self._data_dir)
        self._lock: int | None = None
        try:
            self.settings = self._join()
        except BaseException:
            self.close()  # a half-joined user must not keep the servers running
            raise

    def _join(self) -> Settings:
        with Held(self._locks.start):
            made = _secrets(self._data_dir)
            self._lock = self._become_user()
            if not self.is_running():
                _start_keeper(_orders(self._given, self._data_dir, made))
            servers = _resolved(self._given, _read_record(self._data_dir), self._data_dir)
        return _completed(self._given, servers, made=made)

    def is_running(self) -> bool:
        """Whether the keeper lives; it restarts a server that dies, but nobody restarts it but `revive`."""
        return is_held(self._locks.keeper)

    def revive(self) -> None:
        """Start the keeper again if it was killed; ports and passwords stay as they were."""
        with Held(self._locks.start):
            if not self.is_running():
                _start_keeper(_orders(self._given, self._data_dir, _secrets(self._data_dir)))

    def close(self) -> None:
        """Leave; the last user returns only when the servers have stopped (at most 15 s)."""
        if self._lock is None:
            return
        os.close(self._lock)
        self._lock = None
        deadline = time.monotonic() + _LEAVE_S
        while time.monotonic() < deadline and self.is_running() and not is_shared(self._locks.users):
            time.sleep(_POLL_S)

    def _become_user(self) -> int:
        """Take the shared lock; while the last keeper is stopping its servers, wait for it to end."""
        lock = os.open(self._locks.users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise Unavailable(f"the servers of {self._data_dir} do not stop; try again") from None
                time.sleep(_POLL_S)


def _start_keeper(orders: Orders) -> None:
    """
    Start it and wait until its servers accept connections.

    Raises:
        Unavailable: they did not start; says why.
    """
    log = os.open(Path(orders["data_dir"]) / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    entry = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from core.servers.keeper import main; sys.exit(main())"
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", entry],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd="/",
        start_new_session=True,
    )
    os.close(log)
    try:
        answer = _instruct(keeper, orders)
    except BaseException:  # a signal ends this process while the servers start: nobody else can use them yet
        keeper.kill()
        keeper.wait()
        raise
    keeper.returncode = 0  # never waited for: it lives until its last user has gone, maybe long after us
    if "error" in answer:
        raise Unavailable(f"embedded servers: {answer['error']}")


def _instruct(keeper: subprocess.Popen[bytes], orders: Orders) -> dict[str, object]:
    if keeper.stdin is None or keeper.stdout is None:
        raise AssertionError("pipes were asked for")
    with keeper.stdin as stdin, keeper.stdout as stdout:
        stdin.write(json.dumps(orders).encode())
        stdin.close()
        ready, _, _ = select.select([stdout], [], [], _START_S)
        if not ready:
            keeper.kill()  # its servers follow
        line = stdout.readline() if ready else b""
    return cast("dict[str, object]", json.loads(line)) if line else {"error": "the keeper did not answer"}


def _orders(settings: Settings, data_dir: Path, made: Secrets) -> Orders:
    """Ports of the last run are asked for again, so that the URLs which children hold stay valid."""
    last = _read_record(data_dir)
    postgres: PostgresOrder | None = None
    valkey: ValkeyOrder | None = None
    if settings.database_url is None:
        postgres = {
            "programs": str(postgres_programs()),
            "password": made["postgres_password"],
            "port": last["postgres"]["port"] if "postgres" in last else 0,
            "options": {},
        }
    if settings.redis_url is None:
        valkey = {
            "program": str(valkey_program()),
            "password": made["valkey_password"],
            "port": last["valkey"]["port"] if "valkey" in last else 0,
        }
    return {"data_dir": str(data_dir), "postgres": postgres, "valkey": valkey}


def _read_record(data_dir: Path) -> _Record:
    try:
        return cast("_Record", json.loads((data_dir / "servers.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _secrets(data_dir: Path) -> Secrets:
    """Read them, or make them at the first start. The caller holds the start lock."""
    path = data_dir / "secrets.json"
    if path.exists():
        made = cast("Secrets", json.loads(path.read_text(encoding="utf-8")))
        if not made.get("encryption_key"):  # a data directory of before there was anything to seal
            made["encryption_key"] = new_key()
            write_private(path, json.dumps(made, indent=1))
        return made
    fresh: Secrets = {
        "admin_key": secrets.token_urlsafe(32),
        "key_pepper": secrets.token_urlsafe(48),
        "encryption_key": new_key(),
        "postgres_password": secrets.token_urlsafe(24),
        "valkey_password": secrets.token_urlsafe(24),
    }
    write_private(path, json.dumps(fresh, indent=1))
    return fresh


def _resolved(settings: Settings, record: _Record, data_dir: Path) -> Servers:
    urls: dict[str, str] = {}
    for name, given, word in (
        ("postgres", settings.database_url, "DATABASE_URL"),
        ("valkey", settings.redis_url, "REDIS_URL"),
    ):
        if given is not None:
            urls[name] = given.get_secret_value()
        elif name in record:
            urls[name] = cast("dict[str, _Running]", record)[name]["url"]
        else:
            raise Misconfigured(
                f"the servers running in {data_dir} were started with a {word} of their own: give the same one here"
            )
    broker = settings.broker_url
    broker_url = default_broker_url(urls["valkey"]) if broker is None else broker.get_secret_value()
    return Servers(urls["postgres"], urls["valkey"], broker_url)


def _given(settings: Settings) -> Servers:
    _require_secrets(settings)
    return _resolved(settings, {}, settings.data_dir)


def _require_secrets(settings: Settings) -> None:
    missing = [name for name in ("ADMIN_KEY", "KEY_PEPPER") if getattr(settings, name.lower()) is None]
    if missing:
        raise Misconfigured(
            "with a DATABASE_URL the secrets are yours to keep; set "
            + " and ".join(f"HEADRACE_{name}" for name in missing)
            + ', e.g. to the output of python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
        )
    if settings.key_pepper is not None:
        Peppers.parse(settings.key_pepper.get_secret_value())


def _completed(settings: Settings, servers: Servers, *, made: Secrets | None) -> Settings:
    update: dict[str, object] = {
        "database_url": SecretStr(servers.database_url),
        "redis_url": SecretStr(servers.redis_url),
        "broker_url": SecretStr(servers.broker_url),
        "data_dir": settings.data_dir.resolve(),
        # Decided by what was given, not by what we filled in.
        "diagnostic_tasks": settings.offers_diagnostics,
    }
    if made is not None:
        update["admin_key"] = settings.admin_key or SecretStr(made["admin_key"])
        update["key_pepper"] = settings.key_pepper or SecretStr(made["key_pepper"])
        if settings.database_url is None:  # what is sealed must not outlive its key
            update["encryption_key"] = settings.encryption_key or SecretStr(made["encryption_key"])
    return settings.model_copy(update=update)
