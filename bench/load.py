"""
HTTP load: as fast as 64 connections can (`wrk`, else a client of ours), or at a constant rate.

The constant-rate client is open-loop: each request has its time on a fixed grid, and its latency counts from there,
so a server that stalls cannot hide the requests that would have come meanwhile (coordinated omission).
"""

from __future__ import annotations

import asyncio
import select
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import cast

SCRIPT = Path(__file__).with_name("wrk.lua")
CONNECTIONS = 64
RATE_CONNECTIONS = 32


class LoadFailed(Exception):
    """Some requests were not answered with success, so there is no figure."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, over and over; with several paths one after another, as by clients that each ask for their own."""

    port: int
    method: str
    paths: tuple[str, ...]
    key: str
    body: str = ""

    def encode(self) -> list[bytes]:
        return [self._encode(path) for path in self.paths]

    def _encode(self, path: str) -> bytes:
        lines = [
            f"{self.method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Authorization: Bearer {self.key}",
        ]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body.encode())}"]
        return "\r\n".join([*lines, "", self.body]).encode()


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def requests_per_s(request: Request, seconds: int) -> float:
    """
    Successful requests per second over 64 connections.

    Raises:
        LoadFailed: a request failed.
    """
    if has_wrk():
        return _by_wrk(request, seconds)
    argv = [sys.executable, "-m", "bench.load", str(request.port), request.method, str(seconds), *request.paths]
    # Key and body by standard input: arguments are seen by every user of the machine.
    done = subprocess.run(
        argv, input=f"{request.key}\n{request.body}", capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode != 0:
        raise LoadFailed(done.stderr.strip()[-500:])
    return float(done.stdout)


def _by_wrk(request: Request, seconds: int) -> float:
    url = f"http://127.0.0.1:{request.port}/"
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    argv += ["--", request.method, request.key, request.body, *request.paths]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise LoadFailed(f"wrk: {(done.stderr or done.stdout)[-500:]}")
    requests, micros, refused, broken = (int(word) for word in lines[0])
    if refused or broken or not requests:
        raise LoadFailed(f"wrk: {requests} requests, {refused} refused, {broken} broken")
    return requests / (micros / 1e6)


class _Hammer(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, messages: Iterator[bytes], counts: list[int]) -> None:
        self._messages = messages
        self._counts = counts  # successes, failures
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without saying so
        self._transport.write(next(self._messages))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = answer_end(self._buffer)
        if end is None:
            return
        self._counts[0 if self._buffer[9:10] == b"2" else 1] += 1
        self._buffer = self._buffer[end:]
        if self._transport is not None:
            self._transport.write(next(self._messages))


async def _hammer(request: Request, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    counts = [0, 0]
    messages = cycle(request.encode())
    started = loop.time()
    transports = [
        (await loop.create_connection(lambda: _Hammer(messages, counts), "127.0.0.1", request.port))[0]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(seconds)
    took = loop.time() - started
    for transport in transports:
        transport.close()
    if counts[1] or not counts[0]:
        raise LoadFailed(f"{counts[0]} requests answered with success, {counts[1]} refused")
    return counts[0] / took


def answer_end(buffer: bytes) -> int | None:
    """Where the first answer in the buffer ends; None while it is incomplete. Needs Content-Length."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = buffer[:head_end].lower()
    at = head.find(b"\r\ncontent-length:")
    length = 0
    if at >= 0:
        line_end = head.find(b"\r\n", at + 2)
        length = int(head[at + 17 : line_end if line_end >= 0 else None])
    end = head_end + 4 + length
    return end if len(buffer) >= end else None


def latencies_ms(request: Request, *, rate: int, seconds: float) -> list[float]:
    """
    Latency of each request, sent at a constant rate, from its scheduled time to the end of its answer.

    Raises:
        LoadFailed: a request was refused or a connection broke.
    """
    messages = cycle(request.encode())
    free = deque(socket.create_connection(("127.0.0.1", request.port), timeout=5) for _ in range(RATE_CONNECTIONS))
    everyone = list(free)
    for connection in everyone:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting: dict[socket.socket, float] = {}
    latencies: list[float] = []
    total, sent, start = int(rate * seconds), 0, time.perf_counter() + 0.05
    try:
        while len(latencies) < total:
            due = start + sent / rate
            now = time.perf_counter()
            if sent < total and due <= now and free:
                connection = free.popleft()
                connection.sendall(next(messages))
                waiting[connection] = due
                sent += 1
                continue
            patience = due - now if sent < total and free else 10.0
            ready, _, _ = select.select(list(waiting), [], [], max(0.0, patience))
            if not ready and patience >= 10.0:
                raise LoadFailed(f"no answer within {patience:g} s")
            for connection in ready:
                _read_answer(connection)
                latencies.append((time.perf_counter() - waiting.pop(connection)) * 1000)
                free.append(connection)
    finally:
        for connection in everyone:
            connection.close()
    return latencies


def _read_answer(connection: socket.socket) -> None:
    buffer = b""
    while answer_end(buffer) is None:
        part = connection.recv(65536)
        if not part:
            raise LoadFailed("the server closed the connection")
        buffer += part
    if buffer[9:10] != b"2":
        raise LoadFailed(f"refused: {buffer[:200]!r}")


def main(arguments: list[str]) -> int:
    """`python -m bench.load PORT METHOD SECONDS PATH...` with key and body on standard input: prints requests/s."""
    import uvloop  # noqa: PLC0415 (only this fallback needs it)

    port, method, seconds, *paths = arguments
    key, _, body = sys.stdin.read().partition("\n")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(runner.run(_hammer(Request(int(port), method, tuple(paths), key, body), float(seconds))))
    except LoadFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
