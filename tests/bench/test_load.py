from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.figures import percentile
from bench.load import LoadFailed, Request, answer_end, latencies_ms


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200
    stall_until = 0.0

    def do_GET(self) -> None:
        time.sleep(max(0.0, type(self).stall_until - time.monotonic()))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5, connecting 64 times takes seconds


@contextmanager
def _server(*, status: int = 200, stalled_for_s: float = 0.0) -> Iterator[Request]:
    handler = type("_Configured", (_Answers,), {"status": status, "stall_until": time.monotonic() + stalled_for_s})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Request(server.server_address[1], "GET", ("/", "/other"), "key")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_constant_rate_sends_every_request_and_takes_as_long_as_asked() -> None:
    with _server() as request:
        started = time.monotonic()
        latencies = latencies_ms(request, rate=100, seconds=0.5)
        took = time.monotonic() - started

    assert len(latencies) == 50
    assert took >= 0.49


def test_a_stall_is_felt_by_every_request_that_was_due_in_it() -> None:
    with _server(stalled_for_s=0.4) as request:
        latencies = latencies_ms(request, rate=100, seconds=0.5)

    # A closed loop would have seen one slow request; 100/s were due during some 300 ms of stall.
    assert len([each for each in latencies if each > 50]) > 15
    assert percentile(latencies, 0.99) > 200


def test_a_refused_request_gives_no_latencies() -> None:
    with _server(status=503) as request, pytest.raises(LoadFailed, match="503"):
        latencies_ms(request, rate=50, seconds=0.2)


def test_load_without_wrk_counts_successes_and_keeps_the_key_out_of_the_arguments() -> None:
    with _server() as request:
        argv = [sys.executable, "-m", "bench.load", str(request.port), "GET", "0.3", "/", "/other"]
        done = subprocess.run(argv, input="key\n", capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 10


def test_load_without_wrk_fails_when_requests_are_refused() -> None:
    with _server(status=401) as request:
        argv = [sys.executable, "-m", "bench.load", str(request.port), "GET", "0.2", "/"]
        done = subprocess.run(argv, input="key\n", capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.parametrize(
    ("buffer", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nA: b\r\n\r\nokHTTP", 46),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", None),
        (b"HTTP/1.1 200 OK\r\ncontent-le", None),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", 29),
    ],
)
def test_an_answer_ends_where_its_length_says(buffer: bytes, end: int | None) -> None:
    assert answer_end(buffer) == end
