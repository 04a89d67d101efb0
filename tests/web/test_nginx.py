"""The shipped nginx example, driven for real: nginx asks the door, and shows the caller what the door said."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.app import App, open_app
from core.events.access import Limits
from core.settings import Settings
from tests.support.waiting import wait_until
from tests.web.serving import CHECKOUT, Caller, running_web

NGINX = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx")
EXAMPLE = CHECKOUT / "deploy" / "nginx" / "forward-auth.conf"


class _Gateway(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent of interest."""

    def do_GET(self) -> None:
        told = f"{self.headers.get('X-Headrace-Key-Id')}|{self.headers.get('Authorization')}".encode()
        self.send_response(418 if self.path == "/teapot" else 403 if self.path == "/forbidden" else 200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests say what they saw."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _gateway() -> Generator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(5)


@contextmanager
def _nginx(directory: Path, *, headrace: str, gateway: int) -> Generator[Caller]:
    """The example with other addresses, in an nginx of its own under `directory`."""
    assert NGINX is not None
    port = _free_port()
    example = EXAMPLE.read_text()
    for old, new in {"127.0.0.1:8000": headrace, "127.0.0.1:9000": f"127.0.0.1:{gateway}", "8080": f"{port}"}.items():
        assert old in example
        example = example.replace(old, new)
    (directory / "example.conf").write_text(example)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {directory}/{name};" for name in paths)
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;"
        f"events {{}} http {{ access_log off; {temporary} include {directory}/example.conf; }}"
    )
    process = subprocess.Popen([NGINX, "-p", str(directory), "-c", str(directory / "nginx.conf")])
    try:
        caller = Caller(f"http://127.0.0.1:{port}")
        wait_until(lambda: _answers(port), 10, what="nginx listens")
        yield caller
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def behind_proxies(settings: Settings) -> Settings:
    return settings.model_copy(update={"trusted_proxies": ("127.0.0.1",)})


@pytest.fixture
def proxied_app(behind_proxies: Settings) -> Generator[App]:
    with open_app(behind_proxies) as opened:
        yield opened


@pytest.fixture
def front(proxied_app: App, tmp_path: Path) -> Generator[Caller]:
    """nginx in front of a gateway, asking a web process of ours."""
    (tmp_path / "nginx").mkdir()
    with (
        running_web(proxied_app.settings, tmp_path / "web.log") as web,
        _gateway() as gateway,
        _nginx(tmp_path / "nginx", headrace=web.url.removeprefix("http://"), gateway=gateway) as caller,
    ):
        yield caller


def test_nginx_passes_a_valid_key_on_and_keeps_the_key_itself(proxied_app: App, front: Caller) -> None:
    key = proxied_app.keys.create("through nginx", limits=Limits(rpm=100))

    reply = front.with_key(key.clear_key).get("/v1/anything")

    assert (reply.status, reply.body) == (200, f"{key.key_id}|None".encode())
    assert "r=99" in reply.headers["ratelimit"]
    assert "q=100;w=60" in reply.headers["ratelimit-policy"]


def test_nginx_shows_the_answers_of_the_gateway_itself(proxied_app: App, front: Caller) -> None:
    caller = front.with_key(proxied_app.keys.create("seen").clear_key)

    assert caller.get("/teapot").status == 418
    assert caller.get("/forbidden").status == 403
    assert b"|None" in caller.get("/forbidden").body


def test_nginx_shows_401_for_a_wrong_key_and_403_for_what_a_key_may_not_do(proxied_app: App, front: Caller) -> None:
    key = proxied_app.keys.create("only embeddings", allowed_types=["embedding"]).clear_key

    wrong = front.with_key(key[:-1] + "x").get("/v1/models")
    not_allowed = front.with_key(key).post("/v1/chat/completions", {})

    assert (wrong.status, wrong.headers["www-authenticate"][:6]) == (401, "Bearer")
    assert (not_allowed.status, not_allowed.json["code"]) == (403, "refused")
    assert front.with_key(key).post("/v1/embeddings", {}).status == 200


def test_nginx_shows_429_with_the_time_to_wait(proxied_app: App, front: Caller) -> None:
    caller = front.with_key(proxied_app.keys.create("twice", limits=Limits(rpm=2)).clear_key)

    statuses = [caller.get("/v1/anything").status for _ in range(3)]
    refused = caller.get("/v1/anything")

    assert statuses == [200, 200, 429]
    assert (refused.status, refused.json["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_nginx_shows_503_when_the_door_does_not_answer(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{_free_port()}"
    with _gateway() as gateway, _nginx(tmp_path, headrace=nobody, gateway=gateway) as caller:
        reply = caller.get("/v1/anything")

    assert (reply.status, reply.headers["retry-after"]) == (503, "2")
