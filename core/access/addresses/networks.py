"""
Addresses and networks as numbers: parsed strictly, and found among many by bisection.

Networks are nested or disjoint, so a set of them cuts the line of addresses into segments, each with its most specific
network: a look-up costs a dozen comparisons, however many prefix lengths there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Generic, TypeVar

from core.errors import InvalidRequest

V = TypeVar("V")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_TEXT = 64  # an IPv6 network in its longest form has 43 characters
_MAPPED_BITS = 96  # ::ffff:0:0/96 holds the IPv4 addresses


def normal_address(address: Address) -> Address:
    """IPv4 inside IPv6 (`::ffff:192.0.2.1`) as IPv4; a zone (`%eth0`) is left out: it names the reader's own link."""
    if isinstance(address, IPv4Address):
        return address
    mapped = address.ipv4_mapped
    if mapped is not None:
        return mapped
    return IPv6Address(int(address)) if address.scope_id is not None else address


def parse_address(text: str, *, field: str) -> Address:
    """
    An address as an operator writes it.

    Raises:
        InvalidRequest: it is none; `field` names it.
    """
    if len(text) > LONGEST_TEXT or "%" in text:
        raise _no_address(field)
    try:
        return normal_address(ip_address(text))
    except ValueError:
        raise _no_address(field) from None


def _no_address(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: must be an IPv4 or IPv6 address without port or zone, e.g. 203.0.113.7", field=field
    )


def parse_network(text: str, *, field: str) -> Network:
    """
    A CIDR as an operator writes it; an address alone is a network of one.

    Bits behind the prefix are refused: 10.0.0.1/8 is a slip for either the address or the network.

    Raises:
        InvalidRequest: says which it is; `field` names it.
    """
    address, slash, prefix = text.partition("/")
    bad_prefix = slash and not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3)  # no netmasks
    if len(text) > LONGEST_TEXT or "%" in text or bad_prefix:
        raise _no_network(field)
    try:
        network = ip_network(text, strict=False)
        if slash and ip_address(address) != network.network_address:
            raise InvalidRequest(
                f"{field}: has bits behind its prefix; write {network} for the network, or the address alone",
                field=field,
            )
    except ValueError:
        raise _no_network(field) from None
    return _normal_network(network, field=field)


def _no_network(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: must be an IPv4 or IPv6 address or CIDR without zone, e.g. 203.0.113.0/24 or 2001:db8::/48",
        field=field,
    )


def _normal_network(network: Network, *, field: str) -> Network:
    if isinstance(network, IPv4Network):
        return network
    mapped = network.network_address.ipv4_mapped
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((int(mapped), network.prefixlen - _MAPPED_BITS))
    if network.overlaps(_MAPPED) and network.prefixlen > 0:
        # An IPv6 rule that covers all of IPv4 by accident would be read as IPv6 only.
        raise InvalidRequest(f"{field}: holds the IPv4 addresses; write them as IPv4, e.g. 0.0.0.0/0", field=field)
    return network


_MAPPED = IPv6Network("::ffff:0:0/96")


class NetworkMap(Generic[V]):
    """
    Values by network; immutable, so any thread may read it.

    Args:
        networks: of several that are equal the last one counts.
    """

    def __init__(self, networks: Iterable[tuple[Network, V]]) -> None:
        found = dict(networks)
        self.is_empty = not found
        self._v4 = _Segments((n, v) for n, v in found.items() if n.version == 4)
        self._v6 = _Segments((n, v) for n, v in found.items() if n.version == 6)

    def find(self, address: Address) -> V | None:
        """The value of the most specific network that holds `address`; IPv4 inside IPv6 must be unwrapped before."""
        segments = self._v4 if address.version == 4 else self._v6
        return segments.values[bisect_right(segments.starts, int(address)) - 1]


class _Segments(Generic[V]):
    """From `starts[i]` on it is `values[i]`, None where no network is."""

    __slots__ = ("starts", "values")

    def __init__(self, networks: Iterable[tuple[Network, V]]) -> None:
        self.starts: list[int] = [0]
        self.values: list[V | None] = [None]
        spans = [
            (int(network.network_address), int(network.broadcast_address) + 1, value) for network, value in networks
        ]
        spans.sort(key=lambda span: (span[0], -span[1]))  # the wider before those within
        opened: list[tuple[int, V]] = []
        for start, end, value in spans:
            self._close(opened, start)
            self._cut(start, value)
            opened.append((end, value))
        self._close(opened, 1 << 128)

    def _close(self, opened: list[tuple[int, V]], at: int) -> None:
        """The networks that end before `at`: behind each goes on the one around it."""
        while opened and opened[-1][0] <= at:
            end, _ = opened.pop()
            self._cut(end, opened[-1][1] if opened else None)

    def _cut(self, at: int, value: V | None) -> None:
        if self.starts[-1] == at:
            self.values[-1] = value
        else:
            self.starts.append(at)
            self.values.append(value)


class Networks:
    """A set of networks, of settings: `10.0.0.0/8, 2001:db8::/32`."""

    def __init__(self, texts: Iterable[str], *, field: str) -> None:
        """
        Raises:
            InvalidRequest: names the field and the text that is none.
        """
        self._map = NetworkMap[bool]((parse_network(text, field=field), True) for text in texts)

    @property
    def is_empty(self) -> bool:
        return self._map.is_empty

    def __contains__(self, address: Address) -> bool:
        return self._map.find(address) is not None
