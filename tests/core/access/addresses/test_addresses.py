"""Whose request it is: nobody becomes somebody else by writing a header."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest

from core.access.addresses.addresses import (
    LONGEST_HEADER,
    MOST_WARNED,
    NOWHERE,
    Client,
    TrustedProxies,
    ban_networks,
    limit_word,
)
from core.errors import Misconfigured
from web.client_address import client_of

ATTACKER = "198.51.100.66"
VICTIM = b"203.0.113.7"
PROXY = "10.0.0.1"
OUTER = "10.0.9.9"


@pytest.fixture
def nobody() -> TrustedProxies:
    return TrustedProxies(())


@pytest.fixture
def proxies() -> TrustedProxies:
    return TrustedProxies(("10.0.0.0/8", "2001:db8:ffff::1"))


def address(client: Client) -> str:
    return str(client.address)


def test_nobody_is_believed_by_default(nobody: TrustedProxies) -> None:
    for peer in (ATTACKER, "127.0.0.1", "10.0.0.1", "::1"):
        client = nobody.client(peer, [VICTIM])

        assert address(client) == peer
        assert client.forwards_unproxied


def test_a_direct_peer_is_its_own_address(proxies: TrustedProxies) -> None:
    client = proxies.client(ATTACKER)

    assert (address(client), client.peer) == (ATTACKER, ATTACKER)
    assert (client.is_loopback, client.forwards_unproxied, client.is_proxy) == (False, False, False)
    assert client.counts_failures


def test_a_spoofed_header_from_a_direct_peer_gives_no_new_identity(proxies: TrustedProxies) -> None:
    for lines in ([VICTIM], [VICTIM + b", 10.0.0.1"], [VICTIM, b"10.0.0.2"], [b"127.0.0.1"], [b"10.0.0.1"]):
        client = proxies.client(ATTACKER, lines)

        assert address(client) == ATTACKER
        assert client.forwards_unproxied
        assert not client.is_loopback


def test_behind_one_proxy_only_what_the_proxy_wrote_counts(proxies: TrustedProxies) -> None:
    honest = proxies.client(PROXY, [ATTACKER.encode()])
    spoofed = proxies.client(PROXY, [VICTIM + b", " + ATTACKER.encode()])
    in_two_lines = proxies.client(PROXY, [VICTIM, ATTACKER.encode()])

    assert {address(client) for client in (honest, spoofed, in_two_lines)} == {ATTACKER}
    assert honest.counts_failures
    assert not honest.forwards_unproxied


def test_behind_two_proxies_the_walk_goes_past_both(proxies: TrustedProxies) -> None:
    chain = VICTIM + b", " + ATTACKER.encode() + b", " + OUTER.encode()

    assert address(proxies.client(PROXY, [chain])) == ATTACKER
    assert address(proxies.client(PROXY, [VICTIM, ATTACKER.encode(), OUTER.encode()])) == ATTACKER
    assert address(proxies.client(PROXY, [ATTACKER.encode(), VICTIM])) == VICTIM.decode()


@pytest.mark.parametrize(
    "junk",
    [b"", b"unknown", b"_hidden", b"1.2.3", b"1.2.3.4.5", b"999.1.1.1", b"[::1", b"1.2.3.4:x", b"\xff", b"a" * 99],
)
def test_junk_is_the_peer_and_bans_nobody(proxies: TrustedProxies, junk: bytes) -> None:
    client = proxies.client(PROXY, [VICTIM + b", " + junk])

    assert address(client) == PROXY
    assert client.is_proxy
    assert not client.counts_failures


@pytest.mark.parametrize(
    ("hop", "expected"),
    [
        (b"203.0.113.7:443", "203.0.113.7"),
        (b" 203.0.113.7\t", "203.0.113.7"),
        (b'"203.0.113.7"', "203.0.113.7"),
        (b"::ffff:203.0.113.7", "203.0.113.7"),
        (b"[::ffff:203.0.113.7]:80", "203.0.113.7"),
        (b"2001:DB8:0:0::1", "2001:db8::1"),
        (b"[2001:db8::1]:443", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"[fe80::1%25eth0]:80", "fe80::1"),
    ],
)
def test_forms_of_one_address_are_one_client(proxies: TrustedProxies, hop: bytes, expected: str) -> None:
    assert address(proxies.client(PROXY, [hop])) == expected


def test_mapped_ipv4_and_zones_of_a_peer_are_normalised(proxies: TrustedProxies) -> None:
    assert address(proxies.client("::ffff:198.51.100.66")) == ATTACKER
    assert address(proxies.client("::ffff:10.0.0.1", [ATTACKER.encode()])) == ATTACKER
    assert proxies.client("::ffff:127.0.0.1").is_loopback
    assert address(proxies.client("fe80::1%eth0")) == "fe80::1"


def test_when_all_hops_are_trusted_the_furthest_one_is_the_client_and_is_never_banned(proxies: TrustedProxies) -> None:
    client = proxies.client(PROXY, [b"10.1.1.1, 10.2.2.2"])

    assert address(client) == "10.1.1.1"
    assert not client.counts_failures


def test_a_long_header_is_read_from_its_right_end(proxies: TrustedProxies) -> None:
    lines = [VICTIM + b", " + b"9" * LONGEST_HEADER * 50 + b", " + ATTACKER.encode()]

    assert address(proxies.client(PROXY, lines)) == ATTACKER
    assert address(proxies.client(PROXY, [VICTIM + b"," + b"10.0.0.1," * 100_000 + b"10.0.0.2"])) == "10.0.0.1"
    assert address(proxies.client(PROXY, [b"1" + b"10.0.0.1," * 1000 + b"junk"])) == PROXY


def test_a_header_that_says_loopback_does_not_exempt(proxies: TrustedProxies) -> None:
    client = proxies.client(PROXY, [b"127.0.0.1"])

    assert not client.is_loopback
    assert proxies.client("127.0.0.1").is_loopback
    assert TrustedProxies(("127.0.0.1",)).client("127.0.0.1", [b"127.0.0.1"]).is_loopback


@pytest.mark.parametrize("peer", [None, ""])
def test_a_peer_without_address_is_this_machine(nobody: TrustedProxies, peer: str | None) -> None:
    client = nobody.client(peer)

    assert (address(client), client.is_loopback, client.counts_failures) == ("127.0.0.1", True, False)


def test_a_peer_that_is_no_address_is_nowhere(nobody: TrustedProxies) -> None:
    client = nobody.client("testclient")

    assert (address(client), client.is_loopback, client.counts_failures) == (str(NOWHERE), False, False)


@pytest.mark.parametrize("name", [b"forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip"])
def test_other_headers_name_nobody_and_only_tell_that_somebody_is_there(proxies: TrustedProxies, name: bytes) -> None:
    value = b"for=203.0.113.7" if name == b"forwarded" else VICTIM
    direct = client_of({"headers": [(name, value)], "client": (ATTACKER, 1)}, proxies)
    behind = client_of(
        {"headers": [(name, value), (b"x-forwarded-for", ATTACKER.encode())], "client": (PROXY, 1)}, proxies
    )
    silent = client_of({"headers": [(name, value)], "client": (PROXY, 1)}, proxies)

    assert address(direct) == address(behind) == ATTACKER
    assert direct.forwards_unproxied
    assert behind.counts_failures
    assert address(silent) == PROXY


def test_header_lines_are_joined_in_their_order(proxies: TrustedProxies) -> None:
    lines = [(b"x-forwarded-for", VICTIM), (b"x", b"y"), (b"x-forwarded-for", ATTACKER.encode())]

    assert address(client_of({"headers": lines, "client": (PROXY, 1)}, proxies)) == ATTACKER
    assert address(client_of({"headers": [], "client": None}, proxies)) == "127.0.0.1"


def test_an_unconfigured_proxy_is_told_once(nobody: TrustedProxies, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            nobody.client(PROXY, [VICTIM])
        nobody.client("10.0.0.2", [VICTIM])

    assert [getattr(record, "peer", "") for record in caplog.records] == [PROXY, "10.0.0.2"]


def test_warnings_end_when_too_many_peers_forward(nobody: TrustedProxies, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(MOST_WARNED + 500):
            nobody.client(f"10.{number >> 8 & 255}.{number & 255}.1", [VICTIM])

    assert len(caplog.records) == MOST_WARNED


def test_a_bad_setting_is_told() -> None:
    for bad in ("proxy", "10.0.0.1/8", "10.0.0.0/33", "fe80::1%eth0"):
        with pytest.raises(Misconfigured, match="HEADRACE_TRUSTED_PROXIES"):
            TrustedProxies((bad,))


def test_bans_and_limits_know_an_ipv6_client_by_its_networks() -> None:
    v6, v4 = ip_address("2001:db8:1:2:3:4:5:6"), ip_address("203.0.113.7")

    assert [network.cidr for network in ban_networks(v6)] == [
        "2001:db8:1:2::/64",
        "2001:db8:1::/56",
        "2001:db8:1::/48",
    ]
    assert [network.weight for network in ban_networks(v6)] == [1, 4, 16]
    assert [(network.cidr, network.word) for network in ban_networks(v4)] == [("203.0.113.7/32", "203.0.113.7")]
    assert (limit_word(v6), limit_word(v4)) == ("2001:db8:1:2::/64", "203.0.113.7")


def test_networks_of_different_lengths_have_different_numbers() -> None:
    texts = ["::", "::1", "1::", "2001:db8::", "2001:db8:0:1::", "ffff::", str(NOWHERE), "255.255.255.255", "0.0.0.1"]
    networks = {network for text in texts for network in ban_networks(ip_address(text))}

    assert len({network.number for network in networks}) == len(networks)
