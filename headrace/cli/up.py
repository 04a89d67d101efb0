"""
`headrace up`: everything on one machine, in order, until Ctrl-C.

Servers, then the migration, then web, workers and scheduler as children; stopped as web and scheduler, workers,
Valkey, PostgreSQL. Logs go to stderr with the child's name before each line; the ready block alone goes to stdout.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from core.embedded import EmbeddedServers, open_servers
from core.errors import Misconfigured, Unavailable
from core.logs import configure_logging
from core.orphans import TiedProcess
from core.output import PrefixedOutput
from core.servers.keeper import write_private
from core.settings import Settings, child_environment, load_settings
from core.supervision import MISCONFIGURED, ChildSpec, Supervisor, stop_signals

logger = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = ["release", "web", "worker", "scheduler"]
_MIGRATION_S = 600.0  # a large table may take minutes
_READY_POLL_S = 0.1
_READY_TIMEOUT_S = 2.0
_REMIND_S = 30.0
_DOOR_S = 5.0  # web and scheduler: requests are short, and workers need the rest of the grace


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port of the web process; 0 picks a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Servers' data, secrets and pid files.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
) -> None:
    """Run everything on this machine: database, web, workers, scheduler."""
    settings = load_settings(port=port, data_dir=data_dir, worker_processes=workers)
    configure_logging(level=settings.log_level, format=settings.log_format, process="up")
    raise typer.Exit(run_up(settings))


def run_up(settings: Settings) -> int:
    """
    Run until SIGTERM, SIGINT or SIGHUP; main thread only.

    Returns:
        0 after a stop; 2 when a child says that its settings cannot work.

    Raises:
        Misconfigured: another `up` runs on the data directory, or the port is in use.
        Unavailable: a server or the migration failed.
    """
    with _exit_on_signals(), _only_one(settings.data_dir.resolve()):
        chosen = settings.model_copy(update={"port": _free_port(settings)})
        with _servers(chosen) as (ready, servers):
            output = PrefixedOutput(sys.stderr.buffer, _NAMES)
            _migrate(ready, output)
            clear_key = _first_key(ready)
            supervisor = Supervisor(
                _children(ready),
                output=output,
                on_tick=None if servers is None else lambda: _look_after(servers),
            )
            threading.Thread(target=_announce, args=(ready, clear_key), daemon=True).start()
            return supervisor.run()


def _children(settings: Settings) -> list[ChildSpec]:
    """Their graces together leave the rest of ours to the servers."""
    grace_s = settings.shutdown_grace_s
    door_s = min(_DOOR_S, grace_s / 4)
    worker_s = grace_s - door_s
    return [
        _child("web", settings, door_s, stop_rank=0),
        _child("worker", settings, worker_s, stop_rank=1),
        _child("scheduler", settings, door_s, stop_rank=0),
    ]


def _child(name: str, settings: Settings, grace_s: float, *, stop_rank: int) -> ChildSpec:
    module = {"web": "web", "worker": "workers", "scheduler": "jobs"}[name]
    # The child gives up a little before we kill it.
    own = settings.model_copy(update={"shutdown_grace_s": max(1.0, grace_s * 0.9)})
    return ChildSpec(
        name=name,
        argv=[sys.executable, "-m", module],
        env=_environment(own),
        stop_timeout=timedelta(seconds=grace_s),
        stop_rank=stop_rank,
    )


def _environment(settings: Settings) -> dict[str, str]:
    """
    Ours for a child, which finds our packages from any directory.

    The current directory comes last, for the user's task modules: a folder `web` in it must not be taken for ours.
    """
    environ = child_environment(settings)
    paths = [str(_ROOT), environ.get("PYTHONPATH", ""), str(Path.cwd())]
    environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {**environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def _exit_on_signals() -> Generator[None]:
    """A signal before the children run, or after them, unwinds and exits 0."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    previous = {number: signal.signal(number, leave) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _only_one(data_dir: Path) -> Generator[None]:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(data_dir / "up.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(file, 20).decode().strip() or "starting"
            raise Misconfigured(
                f"`headrace up` (pid {pid}) already runs on {data_dir}: stop it, or choose another --data-dir"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)


def _free_port(settings: Settings) -> int:
    """The port to use, tried before anything is started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
            probe.listen(1)
        except OSError as error:
            raise Misconfigured(
                f"cannot listen on {settings.host} port {settings.port} ({error.strerror}): "
                "stop the program that uses it, or choose another --port"
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def _servers(settings: Settings) -> Generator[tuple[Settings, EmbeddedServers | None]]:
    if settings.database_url is not None and settings.redis_url is not None:
        with open_servers(settings) as ready:
            yield ready, None
        return
    servers = EmbeddedServers(settings)
    try:
        yield servers.settings, servers
    finally:
        servers.close()


def _look_after(servers: EmbeddedServers) -> None:
    """Servers that die are restarted by their keeper; this is for the keeper itself."""
    if servers.is_running():
        return
    logger.error("the keeper of the servers was killed; starting it again")
    try:
        servers.revive()
    except Unavailable as error:  # tried again at the next tick
        logger.error("the servers did not start", extra={"reason": str(error)})


def _migrate(settings: Settings, output: PrefixedOutput) -> None:
    release = TiedProcess(
        [sys.executable, "-m", "core.schema", "upgrade"],
        env=_environment(settings),
        death_signal=signal.SIGKILL,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        if release.process.stdout is not None:
            output.follow("release", release.process.stdout)
        code = release.wait(_MIGRATION_S)
    finally:
        release.kill_group()
        release.wait()
    if code == MISCONFIGURED:
        raise Misconfigured("the migration cannot run with these settings; see its lines above")
    if code != 0:
        raise Unavailable("the migration failed; see its lines above")


def _first_key(settings: Settings) -> str:
    """The clear form of the key made at the first start; made again when the database does not know it."""
    # Imported here: only this command needs the whole application in the supervising process.
    from core.app import open_app  # noqa: PLC0415 (only once it starts)

    path = settings.data_dir / "first-key"
    known = path.read_text(encoding="ascii").strip() if path.exists() else ""
    with open_app(settings) as opened:
        if known and opened.keys.authenticate(known) is not None:
            return known
        made = opened.keys.create(name="first").clear_key
    write_private(path, made + "\n")
    return made


def _announce(settings: Settings, clear_key: str) -> None:
    """Wait until the web process is ready, then say so once."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 (not bound: compared)
    remind_at = time.monotonic() + _REMIND_S
    while not _is_ready(host, settings.port):
        if time.monotonic() > remind_at:
            remind_at += _REMIND_S
            logger.warning("the web process is not ready yet; its lines say why")
        time.sleep(_READY_POLL_S)
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    with suppress(OSError, ValueError):  # nobody reads our output any more; the children go on
        sys.stdout.write(ready_block(url, clear_key, diagnostics=settings.offers_diagnostics))
        sys.stdout.flush()


def ready_block(url: str, clear_key: str, *, diagnostics: bool) -> str:
    """What a person needs to begin; ends with a newline."""
    task: dict[str, object] = {"type": "diagnostic.sleep", "input": {"seconds": 1}}
    if not diagnostics:
        messages = [{"role": "user", "content": "Say hello."}]
        task = {"type": "chat.completion", "input": {"model": "gpt-4o-mini", "messages": messages}}
    return (
        f"headrace is ready at {url}, first key {clear_key}; Ctrl-C stops it. Try:\n"
        f"curl -sS {url}/v1/tasks -H 'Authorization: Bearer {clear_key}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(task)}'\n"
    )


def _is_ready(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=_READY_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
