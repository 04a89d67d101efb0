"""
Whose request it is: the address of the client, from the connection and what trusted proxies say of it.

Nobody is believed who is not configured. A proxy that nobody configured must not get everybody behind it banned: what
comes with a forwarding header from an untrusted peer counts no failed log-ins, and is told once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from core.access.addresses.networks import Address, Networks, normal_address
from core.errors import InvalidRequest, Misconfigured

logger = logging.getLogger(__name__)

REMEMBERED = 4096  # clients, about 700 bytes each: the busy ones are recognised without parsing
LONGEST_HEADER = 2048  # bytes from the right, where trusted proxies write; a sender's own heap of text lies left of it
MOST_WARNED = 1000  # peers; who comes after them is served the same, without a line in the log
_LONGEST_HOP = 64
_LONGEST_CACHED = 256

HERE = IPv4Address("127.0.0.1")
NOWHERE = IPv4Address("0.0.0.0")  # noqa: S104 (stands for a peer without an address; nothing is bound)

BAN_LENGTHS = (64, 56, 48)
"""IPv6: one machine has a /64; who holds more has a /56 or a /48."""
BAN_WEIGHTS = (1, 4, 16)
"""So many times the failures of one address ban the wider network."""


@dataclass(frozen=True, slots=True)
class BanNetwork:
    """
    A network that can be banned.

    Args:
        number: unlike that of any other one.
        word: as in Redis keys, `203.0.113.7` or `2001:db8:1:2::/64`.
        weight: how many times the failures of one address it takes.
    """

    number: int
    word: str
    weight: int

    @property
    def cidr(self) -> str:
        return self.word if "/" in self.word else self.word + "/32"

    @property
    def first(self) -> Address:
        return ip_address(self.word.partition("/")[0])


@dataclass(frozen=True, slots=True)
class Client:
    """
    Args:
        address: counts for bans, filters and limits; never IPv4 inside IPv6.
        peer: of the connection, as text.
        is_loopback: the connection comes from this machine, with nobody behind it: no bans, no limits by address.
        forwards_unproxied: it says whom it forwards, but is no trusted proxy.
        is_proxy: the address is a trusted proxy's own: nobody behind it was named.
        limit_word: for keys of limits: the address, or its /64.
        ban_numbers: of its `ban_networks`, narrow to wide.
    """

    address: Address
    peer: str
    is_loopback: bool
    forwards_unproxied: bool
    is_proxy: bool
    limit_word: str
    ban_numbers: tuple[int, ...]

    @property
    def counts_failures(self) -> bool:
        """Whether failed log-ins may ban it: not where many may stand behind one address."""
        return not (self.is_loopback or self.forwards_unproxied or self.is_proxy or self.address == NOWHERE)


def ban_networks(address: Address) -> tuple[BanNetwork, ...]:
    """Narrow to wide: the IPv4 address, or the /64, /56 and /48 of an IPv6 one."""
    if isinstance(address, IPv4Address):
        return (BanNetwork(int(address), str(address), 1),)
    return tuple(
        BanNetwork(_number(address, length), _word(address, length), weight)
        for length, weight in zip(BAN_LENGTHS, BAN_WEIGHTS, strict=True)
    )


def ban_numbers(address: Address) -> tuple[int, ...]:
    if isinstance(address, IPv4Address):
        return (int(address),)
    return tuple(_number(address, length) for length in BAN_LENGTHS)


def _number(address: IPv6Address, length: int) -> int:
    """Its upper half with the length in front: 71 bits, so no IPv4 address and no other length is equal."""
    return length << 64 | (int(address) >> (128 - length) << (64 - length))


def _word(address: IPv6Address, length: int) -> str:
    return f"{IPv6Address(int(address) >> (128 - length) << (128 - length))}/{length}"


def limit_word(address: Address) -> str:
    """The address, or its /64: `203.0.113.7`, `2001:db8:1:2::/64`."""
    return str(address) if isinstance(address, IPv4Address) else _word(address, 64)


class TrustedProxies:
    """
    Thread-safe. The clients seen lately are remembered, so that a known peer costs a look into a dictionary.

    Args:
        cidrs: of HEADRACE_TRUSTED_PROXIES.

    Raises:
        Misconfigured: one of them is no address and no CIDR.
    """

    def __init__(self, cidrs: Iterable[str]) -> None:
        try:
            self._trusted = Networks(cidrs, field="trusted_proxies")
        except InvalidRequest as error:
            raise Misconfigured(f"HEADRACE_TRUSTED_PROXIES: {error}") from None
        self._warned: set[str] = set()
        self._direct = lru_cache(REMEMBERED)(self._make_direct)
        self._forwarded = lru_cache(REMEMBERED)(self._make_forwarded)

    def client(self, peer: str | None, forwarded_for: Sequence[bytes] = (), *, forwards: bool = False) -> Client:
        """
        Args:
            peer: of the connection. None or empty, as of a UNIX socket: this machine, 127.0.0.1. Any other text that
                is no address: 0.0.0.0, which no allow rule of a filter names and no failure bans.
            forwarded_for: the values of all X-Forwarded-For lines, in their order.
            forwards: another header says that somebody is behind the peer, e.g. Forwarded; never whom, for us.
        """
        if not forwarded_for:
            return self._direct(peer or "", forwards)
        direct = self._direct(peer or "", True)
        if not direct.is_proxy:
            return direct
        joined = forwarded_for[0] if len(forwarded_for) == 1 else b",".join(forwarded_for)
        if len(joined) <= _LONGEST_CACHED:
            return self._forwarded(peer or "", joined)
        return self._make_forwarded(peer or "", joined)

    @property
    def remembered(self) -> int:
        """Clients in memory that came through a proxy; at most REMEMBERED."""
        return self._forwarded.cache_info().currsize

    def _make_direct(self, peer: str, forwards: bool) -> Client:
        address = _peer_address(peer)
        is_proxy = address in self._trusted
        if forwards and not is_proxy:
            self._warn(peer)
        return _client(address, peer, address.is_loopback, forwards_unproxied=forwards, is_proxy=is_proxy)

    def _make_forwarded(self, peer: str, forwarded_for: bytes) -> Client:
        peer_address = _peer_address(peer)
        address = self._behind(peer_address, forwarded_for)
        # Only a connection proves that somebody is on this machine; a header that says so does not.
        is_loopback = address.is_loopback and peer_address.is_loopback
        return _client(address, peer, is_loopback, forwards_unproxied=False, is_proxy=address in self._trusted)

    def _behind(self, peer: Address, forwarded_for: bytes) -> Address:
        """
        From the right past trusted hops: each entry was written by the one after it, so the first that is not trusted
        is the last that is true. Junk: the peer. All trusted: the furthest of them.
        """
        text = forwarded_for[-LONGEST_HEADER:]
        hops = text.split(b",")
        if len(text) < len(forwarded_for):
            del hops[0]  # cut in two
        found = peer
        for hop in reversed(hops):
            address = _hop_address(hop)
            if address is None:
                return peer
            found = address
            if address not in self._trusted:
                break
        return found

    def _warn(self, peer: str) -> None:
        if peer in self._warned or len(self._warned) >= MOST_WARNED:
            return
        self._warned.add(peer)
        logger.warning(
            "a peer forwards for others but is no trusted proxy: its own address counts, and its failed log-ins ban "
            "nobody; if it is your proxy, add it to HEADRACE_TRUSTED_PROXIES",
            extra={"peer": peer},
        )


def _client(address: Address, peer: str, is_loopback: bool, *, forwards_unproxied: bool, is_proxy: bool) -> Client:
    return Client(
        address,
        peer,
        is_loopback,
        forwards_unproxied and not is_proxy,
        is_proxy,
        limit_word(address),
        ban_numbers(address),
    )


def _peer_address(peer: str) -> Address:
    if not peer:
        return HERE
    return _address_of(peer) or NOWHERE


def _hop_address(hop: bytes) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`, each with blanks, quotes or a zone."""
    text = hop.strip().strip(b'"')
    if not 2 <= len(text) <= _LONGEST_HOP or not text.isascii():
        return None
    word = text.decode("ascii")
    if word[0] == "[":
        word, bracket, port = word[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif word.count(":") == 1:
        word, _, port = word.partition(":")
        if not _is_port(":" + port):
            return None
    return _address_of(word)


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isdigit() and len(text) <= 6


def _address_of(text: str) -> Address | None:
    try:
        return normal_address(ip_address(text))
    except ValueError:
        return None
