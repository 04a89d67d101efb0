"""The HTTP side of `FakeProvider`: one thread a connection, answers with their faults, and who hung up first."""

from __future__ import annotations

import http.client
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar, cast
from urllib.parse import SplitResult, urlsplit

from core.testing import answers
from core.testing.calls import Call, Fault

if TYPE_CHECKING:
    from core.testing.fake_provider import FakeProvider

BODY_LIMIT_BYTES = 64 * 1024 * 1024
FORWARD_TIMEOUT_S = 600.0  # the default deadline of a task; the caller's own is what ends a call sooner


class _ClientGone(Exception):
    """The client closed the connection before the answer was complete."""


class ProviderServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], provider: FakeProvider) -> None:
        self.provider = provider
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Connection)

    def keep(self, connection: socket.socket, *, is_open: bool) -> None:
        with self._open_lock:
            (self._open.add if is_open else self._open.discard)(connection)

    def hang_up(self) -> None:
        with self._open_lock:
            for connection in self._open:
                with suppress(OSError):  # closed by its own thread a moment ago: that is what was wanted
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up between two requests is no news; anything else is shown as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(cast("socket.socket", request), client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True

    @property
    def provider(self) -> FakeProvider:
        return cast("ProviderServer", self.server).provider

    def setup(self) -> None:
        super().setup()
        cast("ProviderServer", self.server).keep(self.connection, is_open=True)

    def finish(self) -> None:
        cast("ProviderServer", self.server).keep(self.connection, is_open=False)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the calls are recorded."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        provider = self.provider
        size = min(int(self.headers.get("content-length") or 0), BODY_LIMIT_BYTES)
        call = Call(
            method=self.command,
            path=urlsplit(self.path).path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(size),
        )
        fault = provider.received(call)
        try:
            self._wait(provider.latency_s + fault.delay_s)
            outcome = self._answer(call, fault)
        except (_ClientGone, OSError):
            outcome = "gone"
        if outcome != "answered":
            self.close_connection = True
        provider.ended(call, outcome)

    def _answer(self, call: Call, fault: Fault) -> str:
        provider = self.provider
        if provider.forward_to and not call.path.startswith(("/v1/images", "/v1/videos")):
            return self._forward(call, provider.forward_to)
        status, body = (
            (fault.status, answers.error(f"fault {fault.status}"))
            if fault.status is not None
            else provider.answer(call)
        )
        data = fault.body if fault.body is not None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **fault.headers}
        if fault.retry_after is not None:
            headers["Retry-After"] = fault.retry_after
        if provider.poll_after_ms is not None and "/videos" in call.path:
            headers["openai-poll-after-ms"] = str(provider.poll_after_ms)
        return self._send(call, status, headers, data, fault)

    def _send(self, call: Call, status: int, headers: Mapping[str, str], data: bytes, fault: Fault) -> str:
        call.status = status
        lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"]
        given = {"Date": self.date_time_string(), "Content-Length": str(len(data)), **headers}
        lines += [f"{name}: {value}" for name, value in given.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        sent = data if fault.cut_after is None else data[: fault.cut_after]
        if fault.trickle_s is None:
            self.wfile.write(head + sent)
        else:
            self.wfile.write(head)
            for byte in sent:
                self._wait(fault.trickle_s)
                self.wfile.write(bytes([byte]))
        if fault.cut_after is not None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return "cut"
        return "answered"

    def _forward(self, call: Call, base_url: str) -> str:
        target = urlsplit(base_url)
        connection = _connection_to(target)
        try:
            kept = {n: v for n, v in call.headers.items() if n not in ("host", "connection", "content-length")}
            path = target.path.rstrip("/") + self.path.removeprefix("/v1")
            connection.request(call.method, path, body=call.body or None, headers=kept)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            body = json.dumps(answers.error(f"{target.hostname} cannot be reached: {type(error).__name__}")).encode()
            return self._send(call, 502, {"Content-Type": "application/json"}, body, Fault())
        finally:
            connection.close()
        ours = ("connection", "content-length", "transfer-encoding", "server", "date", "keep-alive")
        headers = {name: value for name, value in response.getheaders() if name.lower() not in ours}
        return self._send(call, response.status, headers, data, Fault())

    def _wait(self, seconds: float) -> None:
        """Wait, but not for a client that has gone, nor longer than the server lives."""
        deadline = time.monotonic() + seconds
        watched = select.poll()  # and not select(), which takes no descriptor above 1,023
        watched.register(self.connection, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if self.provider.closing.is_set():
                raise _ClientGone
            if watched.poll(min(left, 0.1) * 1000) and not self.connection.recv(1, socket.MSG_PEEK):
                raise _ClientGone


def _connection_to(target: SplitResult) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
    return kind(target.hostname or "127.0.0.1", target.port, timeout=FORWARD_TIMEOUT_S)
