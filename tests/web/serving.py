"""A real web process, and a client that hides nothing of HTTP."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr

from core.app import App, open_app
from core.embedded import Servers
from core.settings import Settings, child_environment
from tests.support.databases import fresh_database
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
NOOP: dict[str, Any] = {"type": "diagnostic.noop", "input": {}}


@dataclass(frozen=True)
class Reply:
    """`headers` with lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def etag(self) -> str:
        return self.headers["etag"]


@dataclass
class Caller:
    """One client with its key; each request has a connection of its own unless `keep` is called."""

    url: str
    key: str = field(default="", repr=False)
    timeout_s: float = 15.0
    _kept: HTTPConnection | None = None

    def keep(self) -> Caller:
        """The same client on one connection, for one thread."""
        return Caller(self.url, self.key, self.timeout_s, self._connect())

    def with_key(self, key: str) -> Caller:
        return Caller(self.url, key, self.timeout_s)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        """`body` is sent as JSON; bytes are sent as they are."""
        if body is None:
            return self.send("POST", path, headers=headers)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, {"Content-Type": "application/json", **headers})

    def enqueue(self, body: Any = None, **headers: str) -> str:
        """The id of an accepted task."""
        reply = self.post("/v1/tasks", NOOP if body is None else body, **headers)
        assert reply.status == 202, reply
        return str(reply.json["id"])

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = self._kept or self._connect()
        try:
            known = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
            connection.request(method, path, body, {**known, **named})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            if self._kept is None:
                connection.close()

    def _connect(self) -> HTTPConnection:
        parts = urlsplit(self.url)
        return HTTPConnection(parts.hostname or "", parts.port, timeout=self.timeout_s)


class WebProcess:
    """`python -m web` on a free port."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "web"],
                cwd=CHECKOUT,
                env=child_environment(settings.model_copy(update={"port": 0})),
                stderr=stream,
            )
        self.url = wait_until(self._listening, 30, what="the web process listens")
        self.caller = Caller(self.url)

    def _listening(self) -> str:
        assert self.process.poll() is None, self.text()
        found = re.search(r"url=(\S+)", self.text())
        return found.group(1) if found else ""

    def is_ready(self) -> bool:
        try:
            return self.caller.get("/ready").status == 200
        except (OSError, HTTPException):
            return False

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@contextmanager
def running_web(settings: Settings, log: Path, *, ready: bool = True) -> Generator[WebProcess]:
    web = WebProcess(settings, log)
    try:
        if ready:
            wait_until(web.is_ready, 30, what="the web process is ready")
        yield web
    finally:
        if web.process.poll() is None:
            web.process.kill()
            web.process.wait()


@dataclass(frozen=True)
class Site:
    """An application on its own database, a web process in front of it, and a key."""

    app: App
    web: WebProcess
    caller: Caller
    key_id: str

    def other(self) -> Caller:
        """A client with another key."""
        return self.caller.with_key(self.app.keys.create("other").clear_key)


@contextmanager
def open_site(app: App, log: Path) -> Generator[Site]:
    key = app.keys.create("test")
    with running_web(app.settings, log) as web:
        yield Site(app, web, Caller(web.url, key.clear_key), key.key_id)


@contextmanager
def open_shared_site(servers: Servers, server_settings: Settings, directory: Path) -> Generator[Site]:
    """A site on a database of its own, for longer than one test."""
    with fresh_database(servers.database_url) as url:
        update = {
            "database_url": SecretStr(url),
            "instance_name": f"w{secrets.token_hex(4)}:",
            "data_dir": directory,
        }
        with open_app(server_settings.model_copy(update=update)) as app, open_site(app, directory / "web.log") as site:
            yield site
