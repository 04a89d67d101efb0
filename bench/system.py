"""
The system under test: real servers for the whole run, a fresh database for each round, our processes as children.

Only public ways in: `open_app`, `python -m web`, `python -m workers`, HTTP.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql
from pydantic import SecretStr

from bench.processes import Child, free_port, output_of, running
from core.embedded import open_servers
from core.settings import Settings, child_environment, load_settings
from core.task_types.spec import TaskInput, load_task_types

CHECKOUT = Path(__file__).resolve().parent.parent
PAYLOAD = "x" * 200
PEER_REDIS_NUMBER = 5  # away from ours; the server is empty at each round anyway


@dataclass(frozen=True, slots=True)
class Servers:
    """PostgreSQL (fsync on) and Valkey of this run; `logs` is where children write."""

    settings: Settings
    logs: Path

    def fresh_database(self, name: str) -> str:
        """The URL of a new empty database; everything in Redis is gone, and the disk is quiet."""
        with psycopg.connect(_plain(self.settings.database_url), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            connection.execute("CHECKPOINT")
        with redis.Redis.from_url(_plain(self.settings.redis_url)) as client:
            client.flushall()
        return _with_path(_plain(self.settings.database_url), name)

    def fresh(self, name: str, *, worker_processes: int = 1, provider_url: str | None = None) -> Settings:
        """Settings of a migrated empty database, for us."""
        settings = self.settings.model_copy(
            update={
                "database_url": SecretStr(self.fresh_database(name)),
                "diagnostic_tasks": True,
                "worker_processes": worker_processes,
                "worker_threads": 8,
                "port": free_port(),
                "provider_url": provider_url,
                "provider_api_key": None if provider_url is None else SecretStr("bench"),
                "log_level": "WARNING",
            }
        )
        output_of([sys.executable, "-m", "core.schema", "upgrade"], env=child_environment(settings), cwd=CHECKOUT)
        return settings

    def peer_redis_url(self) -> str:
        return _with_path(_plain(self.settings.redis_url), str(PEER_REDIS_NUMBER))


@contextmanager
def open_bench_servers() -> Iterator[Servers]:
    """The embedded servers on this checkout's disk, for this run alone; everything is deleted afterwards."""
    home = CHECKOUT / ".bench"
    home.mkdir(exist_ok=True)
    _remove_abandoned(home)
    root = Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=home))
    try:
        with open_servers(load_settings({}, data_dir=root / "var")) as settings:
            yield Servers(settings, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _remove_abandoned(home: Path) -> None:
    """What a killed run left behind; it may be gigabytes."""
    for root in home.glob("run-*-*"):
        try:
            os.kill(int(root.name.split("-")[1]), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(root, ignore_errors=True)
        except PermissionError:
            continue  # somebody else's run, and alive


@contextmanager
def web(settings: Settings, logs: Path) -> Iterator[Child]:
    """One web process, ready."""
    with running("web", [sys.executable, "-m", "web"], env=child_environment(settings), logs=logs) as it:
        it.wait_until(lambda: _answers(settings.port), what="GET /ready")
        yield it


@contextmanager
def worker(settings: Settings, logs: Path) -> Iterator[Child]:
    """A worker supervisor with `settings.worker_processes` processes; not waited for."""
    argv = [sys.executable, "-m", "workers"]
    with running("worker", argv, env=child_environment(settings), logs=logs) as it:
        yield it


@contextmanager
def ready_worker(settings: Settings, logs: Path) -> Iterator[Child]:
    """The same, with all its processes registered."""
    query = "SELECT count(*) FROM workers WHERE stopped_at IS NULL AND died_at IS NULL"
    with worker(settings, logs) as it, connect(settings) as connection:
        it.wait_until(lambda: number(connection, query) >= settings.worker_processes, what="worker processes")
        yield it


def noop_type() -> type[TaskInput]:
    """The input model of diagnostic.noop."""
    return load_task_types(diagnostics=True).get("diagnostic.noop").input


def connect(settings: Settings) -> psycopg.Connection[tuple[object, ...]]:
    """The outside reader's own connection."""
    return psycopg.connect(_plain(settings.database_url), autocommit=True)


def number(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    """The single number a query of ours answers with."""
    row = connection.execute(query.encode()).fetchone()
    if row is None or not isinstance(row[0], int):
        raise TypeError(f"not a number: {query}")
    return row[0]


def plain_redis(settings: Settings) -> redis.Redis:
    """A bare redis-py client of the cache server."""
    client: redis.Redis = redis.Redis.from_url(_plain(settings.redis_url))
    return client


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _plain(secret: SecretStr | None) -> str:
    if secret is None:
        raise ValueError("the servers of a run have URLs")
    return secret.get_secret_value()


def _with_path(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
