"""
`python -m bench.flood PORT KEYS ADDRESSES`: requests with invented keys, each once, as if through a proxy.

Every key is well-formed and its checksum right; each request comes from the next address, half of them IPv4, half IPv6
in /48 of their own. Prints `{"took_s": 9.5, "answers": {"401": 700, "503": 49300}}`. Each connection asks again as soon
as it is answered; they are more than the web process lets wait for the proof of a key, or the flood would be as slow as
the proofs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import cast

import uvloop

from bench.load import answer_end
from core.access.keys.text import new_clear_key, new_key_id

CONNECTIONS = 96
_IPV4 = int(IPv4Address("198.18.0.0"))  # of networks for benchmarks (RFC 2544), and for documentation (RFC 3849)
_IPV6 = int(IPv6Address("2001:db8::"))


def addresses(count: int) -> list[str]:
    """Different ones, for bans too: each IPv6 address is of another /48, the widest network that is banned."""
    half = count // 2
    return [str(IPv4Address(_IPV4 + n)) for n in range(half)] + [
        str(IPv6Address(_IPV6 + (n << 80) + 1)) for n in range(count - half)
    ]


def requests(port: int, keys: int, from_addresses: list[str]) -> Iterator[bytes]:
    for number in range(keys):
        # Not the same path for all: bodies and polls of tasks pass the same door.
        yield (
            f"GET /v1/tasks/task_{number:032x} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"X-Forwarded-For: {from_addresses[number % len(from_addresses)]}\r\n"
            f"Authorization: Bearer {new_clear_key(new_key_id())}\r\n\r\n"
        ).encode()


class _Connection(asyncio.Protocol):
    """Asks as long as there are requests; `ended` tells that all of its own are answered."""

    def __init__(self, messages: Iterator[bytes], answers: Counter[str]) -> None:
        self._messages = messages
        self._answers = answers
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without saying so
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = answer_end(self._buffer)
        if end is None:
            return
        self._answers[self._buffer[9:12].decode()] += 1
        self._buffer = self._buffer[end:]
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        message = next(self._messages, None)
        if message is not None and self._transport is not None:
            self._transport.write(message)
        elif not self.ended.done():
            self.ended.set_result(None)


async def flood(port: int, keys: int, from_addresses: int) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    answers: Counter[str] = Counter()
    messages = requests(port, keys, addresses(from_addresses))
    began = loop.time()
    opened = [
        await loop.create_connection(lambda: _Connection(messages, answers), "127.0.0.1", port)
        for _ in range(min(CONNECTIONS, keys))
    ]
    await asyncio.gather(*(connection.ended for _, connection in opened))
    took_s = loop.time() - began
    for transport, _ in opened:
        transport.close()
    return {"took_s": took_s, "answers": dict(answers)}


def main(arguments: list[str]) -> None:
    port, keys, from_addresses = (int(argument) for argument in arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(flood(port, keys, from_addresses))))


if __name__ == "__main__":
    main(sys.argv[1:])
