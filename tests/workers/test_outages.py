"""Law 9: with Redis or the database gone, stopped or emptied in the middle, nothing is lost and work goes on."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from pydantic import SecretStr

from core.app import App, open_app
from core.embedded import open_servers
from core.ids import KeyId
from core.servers.programs import valkey_program
from core.settings import Settings, load_settings
from tests.support.probe_tasks import MODULE, Trace, read_trace
from tests.support.waiting import wait_until
from tests.support.worker_processes import running_workers
from tests.workers.test_overlap_and_crashes import states, unfinished


class OwnValkey:
    """A server that a test may stop, start and empty."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._directory = directory
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(valkey_program()), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, 10, what="Valkey answers")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def valkey(tmp_path: Path) -> Generator[OwnValkey]:
    server = OwnValkey(tmp_path)
    yield server
    server.pause(signal.SIGCONT)
    server.stop()


@pytest.fixture
def app(settings: Settings, valkey: OwnValkey) -> Generator[App]:
    update = {
        "redis_url": SecretStr(valkey.url),
        "broker_url": None,
        "lease_s": 4.0,
        "heartbeat_s": 1.0,
        "shutdown_grace_s": 10.0,
        "task_modules": (MODULE,),
    }
    with open_app(settings.model_copy(update=update)) as opened:
        yield opened


@pytest.fixture
def owner(app: App) -> KeyId:
    return KeyId(app.keys.create(name="outages").key_id)


def enqueue(app: App, owner: KeyId, trace: Path, number: int) -> None:
    app.tasks.enqueue_many([Trace(path=str(trace), seconds=0.05) for _ in range(number)], owner=owner)


def test_redis_emptied_stopped_and_started_in_the_middle_loses_nothing_and_work_goes_on(
    app: App, owner: KeyId, tmp_path: Path, valkey: OwnValkey
) -> None:
    trace = tmp_path / "trace"

    def begun() -> int:
        return sum(line.word == "begin" for line in read_trace(trace))

    with running_workers(app, log=tmp_path / "log", worker_threads=4):
        enqueue(app, owner, trace, 100)
        wait_until(lambda: begun() > 20, 20, what="work")
        valkey.empty()
        enqueue(app, owner, trace, 100)
        wait_until(lambda: not unfinished(app), 20, what="all end after FLUSHALL")

        valkey.stop()
        while_away = time.time()
        enqueue(app, owner, trace, 100)  # nobody hears of these
        wait_until(lambda: not unfinished(app), 20, what="all end with Redis gone")
        assert sum(line.at > while_away for line in read_trace(trace)) >= 200
        assert min(line.at for line in read_trace(trace) if line.at > while_away) - while_away < 2.5

        valkey.start()
        enqueue(app, owner, trace, 1)
        wait_until(lambda: not unfinished(app), 20, what="the last one ends")

    assert states(app) == {"completed": 301}
    assert begun() == 301


def test_a_blackholed_redis_slows_work_and_stops_none(
    app: App, owner: KeyId, tmp_path: Path, valkey: OwnValkey
) -> None:
    trace = tmp_path / "trace"
    with running_workers(app, log=tmp_path / "log", worker_threads=4) as workers:
        workers.await_children(1)
        valkey.pause(signal.SIGSTOP)
        enqueue(app, owner, trace, 40)
        wait_until(lambda: not unfinished(app), 20, what="all end with Redis silent")
        valkey.pause(signal.SIGCONT)

    assert states(app) == {"completed": 40}


def test_a_redis_that_refuses_writes_neither_refuses_nor_stops_tasks(
    app: App, owner: KeyId, tmp_path: Path, valkey: OwnValkey
) -> None:
    trace = tmp_path / "trace"
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("min-replicas-to-write", 1)

    with running_workers(app, log=tmp_path / "log", worker_threads=4) as workers:
        workers.await_children(1)
        enqueue(app, owner, trace, 20)
        wait_until(lambda: not unfinished(app), 20, what="all end")

    assert states(app) == {"completed": 20}


@pytest.fixture
def own_database(tmp_path: Path) -> Generator[Settings]:
    """Servers of this test alone, for it stops them."""
    with open_servers(load_settings({}, data_dir=tmp_path / "var")) as opened:
        yield opened


def postmaster_pid(data_dir: Path) -> int:
    (file,) = data_dir.glob("**/postmaster.pid")
    return int(file.read_text(encoding="ascii").split()[0])


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_with_the_database_away_running_tasks_go_on_and_their_finishes_wait_for_it(
    own_database: Settings, tmp_path: Path, how: str
) -> None:
    trace = tmp_path / "trace"
    update = {"lease_s": 4.0, "heartbeat_s": 1.0, "task_modules": (MODULE,), "instance_name": secrets.token_hex(4)}
    given = load_settings({}, data_dir=own_database.data_dir).model_copy(update=update)
    with open_app(given) as app:
        owner = KeyId(app.keys.create(name="outage").key_id)
        with running_workers(app, log=tmp_path / "log", worker_threads=2) as workers:
            tasks = app.tasks.enqueue_many([Trace(path=str(trace), seconds=1.5) for _ in range(2)], owner=owner)
            wait_until(lambda: len(read_trace(trace)) == 2, 20, what="both run")
            pid = wait_until(lambda: server_pid(app), 5, what="the server's pid")

            if how == "killed":
                os.kill(pid, signal.SIGKILL)  # its keeper starts it again
            else:
                os.kill(pid, signal.SIGSTOP)
                for backend in backends(pid):
                    os.kill(backend, signal.SIGSTOP)
            wait_until(lambda: len(read_trace(trace)) == 4, 10, what="both handlers end meanwhile")
            if how == "silent":
                for backend in (*backends(pid), pid):
                    os.kill(backend, signal.SIGCONT)

            wait_until(lambda: ended(app), 40, what="their finishes are written")
            assert {app.tasks.get(task.public_id)["state"] for task in tasks} == {"completed"}
            assert len([line for line in read_trace(trace) if line.word == "begin"]) == 2
            assert workers.stop() == 0


def server_pid(app: App) -> int:
    return postmaster_pid(app.settings.data_dir)


def backends(postmaster: int) -> list[int]:
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii")
    return [int(child) for child in children.split()]


def ended(app: App) -> bool:
    try:
        return not unfinished(app)
    except sa.exc.SQLAlchemyError:  # still starting
        return False
