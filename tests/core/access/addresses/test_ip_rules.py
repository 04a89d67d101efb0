"""What IP filters decide, against the standard library's own arithmetic."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.access.addresses.ip_rules import Action, CompiledRules, Rule, RuleSet, Scope, decode, encode
from core.access.addresses.networks import (
    Address,
    Network,
    NetworkMap,
    Networks,
    normal_address,
    parse_address,
    parse_network,
)
from core.errors import InvalidRequest

thoroughly = settings(max_examples=400, deadline=None, database=None, derandomize=True)

# Few bits differ, so that networks are nested and edges are met; and anything at all.
v4_numbers = st.sampled_from([0, 1, 0x0A000000, 0x0A0000FF, 0x0A000100, 0xC0A80001, 2**32 - 1]) | st.integers(
    0, 2**32 - 1
)
v6_numbers = (
    st.builds(lambda high, low: (0x20010DB8 << 96) | high << 64 | low, st.integers(0, 3), st.integers(0, 3))
    | st.sampled_from([0, 1, 2**128 - 1])
    | st.integers(0, 2**128 - 1)
)
v4_networks = st.builds(lambda n, p: ipaddress.IPv4Network((n, p), strict=False), v4_numbers, st.integers(0, 32))
v6_networks = st.builds(lambda n, p: ipaddress.IPv6Network((n, p), strict=False), v6_numbers, st.integers(0, 128))
networks = v4_networks | v6_networks
keys = st.sampled_from([None, "keyA", "keyB"])
rules = st.builds(
    lambda action, network, key: Rule(uuid4(), action, network, key), st.sampled_from(Action), networks, keys
)
addresses = st.builds(ipaddress.IPv4Address, v4_numbers) | st.builds(ipaddress.IPv6Address, v6_numbers)


def edges(found: Iterable[Network]) -> list[Address]:
    return [edge for network in found for edge in (network.network_address, network.broadcast_address)]


def holds(network: Network, address: Address) -> bool:
    return address.version == network.version and address in network


def expected(found: Sequence[Rule], address: Address, key_id: str | None) -> bool:
    """Said again, slowly: any deny refuses; each scope that has allow rules must have one that matches."""
    scopes = [None] if key_id is None else [None, key_id]
    mine = [rule for rule in found if rule.key_id in scopes]
    if any(rule.action is Action.DENY and holds(rule.network, address) for rule in mine):
        return False
    for scope in scopes:
        allow = [rule for rule in mine if rule.action is Action.ALLOW and rule.key_id == scope]
        if allow and not any(holds(rule.network, address) for rule in allow):
            return False
    return True


@thoroughly
@given(st.lists(rules, max_size=12), st.lists(addresses, min_size=1, max_size=8), keys)
def test_decisions_are_those_of_the_standard_library(
    found: list[Rule], asked: list[Address], key_id: str | None
) -> None:
    compiled = CompiledRules(RuleSet(1, tuple(found)))

    for address in (*asked, *edges(rule.network for rule in found)):
        verdict = compiled.check(address, key_id)

        assert verdict.allowed is expected(found, address, key_id)
        if verdict.rule is not None:
            assert holds(verdict.rule.network, address)
            assert (verdict.rule.action is Action.ALLOW) is verdict.allowed


@thoroughly
@given(st.lists(networks, max_size=30), st.lists(addresses, max_size=20))
def test_the_most_specific_network_is_found(found: list[Network], asked: list[Address]) -> None:
    table = NetworkMap((network, network) for network in found)

    for address in (*asked, *edges(found)):
        matching = [network for network in found if holds(network, address)]
        assert table.find(address) == max(matching, key=lambda network: network.prefixlen, default=None)


@thoroughly
@given(st.lists(rules, max_size=10), st.integers(0, 2**40))
def test_a_copy_of_the_rules_is_the_rules(found: list[Rule], version: int) -> None:
    whole = RuleSet(version, tuple(found))

    assert decode(encode(whole)) == whole


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"null",
        b'{"version": 1}',
        b'{"version": 1, "rules": [{}]}',
        b'{"version": 1, "rules": 3}',
        b'{"version": 1, "rules": [{"id": "x", "action": "deny", "cidr": "10.0.0.0/8", "key_id": null}]}',
    ],
)
def test_a_corrupt_copy_is_refused(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(text)


def test_deny_wins_whichever_scope_it_is_in() -> None:
    everybody_allow = Rule(UUID(int=1), Action.ALLOW, ipaddress.ip_network("10.0.0.0/8"), None)
    everybody_deny = Rule(UUID(int=2), Action.DENY, ipaddress.ip_network("10.1.0.0/16"), None)
    key_allow = Rule(UUID(int=3), Action.ALLOW, ipaddress.ip_network("10.1.0.0/16"), "k")
    key_deny = Rule(UUID(int=4), Action.DENY, ipaddress.ip_network("10.2.0.0/16"), "k")
    compiled = CompiledRules(RuleSet(1, (everybody_allow, everybody_deny, key_allow, key_deny)))

    def said(text: str, key_id: str | None = None) -> tuple[bool, Rule | None, Scope | None]:
        verdict = compiled.check(ipaddress.ip_address(text), key_id)
        return verdict.allowed, verdict.rule, verdict.scope

    assert said("10.9.9.9") == (True, everybody_allow, Scope.GLOBAL)
    assert said("10.1.1.1", "k") == (False, everybody_deny, Scope.GLOBAL)
    assert said("10.2.1.1") == (True, everybody_allow, Scope.GLOBAL)
    assert said("10.2.1.1", "k") == (False, key_deny, Scope.KEY)
    assert said("10.9.9.9", "k") == (False, None, Scope.KEY)
    assert said("192.0.2.1") == (False, None, Scope.GLOBAL)
    assert said("192.0.2.1", "other") == (False, None, Scope.GLOBAL)


def test_an_allow_rule_for_ipv4_shuts_ipv6_out() -> None:
    compiled = CompiledRules(RuleSet(1, (Rule(UUID(int=1), Action.ALLOW, ipaddress.ip_network("0.0.0.0/0"), None),)))

    assert compiled.check(ipaddress.ip_address("192.0.2.1"), None).allowed
    assert not compiled.check(ipaddress.ip_address("2001:db8::1"), None).allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.1/8",
        "10.0.0.256",
        "010.0.0.1",
        "10.0.0",
        "2001:db8::/129",
        "2001:db8::1/64",
        "fe80::1%eth0",
        "fe80::%1/64",
        "::ffff:10.0.0.1/104",
        "::ffff:0:0/95",
        "::/1",
        "1" * 10_000,
        "10.0.0.0/\u0668",
        "10.0.0.0 /8",
        "host.example",
    ],
)
def test_what_is_no_network_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_network(text, field="cidr")

    assert caught.value.field == "cidr"
    assert len(str(caught.value)) < 200


def test_networks_are_normalised() -> None:
    for text, normal in {
        "10.0.0.1": "10.0.0.1/32",
        "10.0.0.0/8": "10.0.0.0/8",
        "0.0.0.0/0": "0.0.0.0/0",
        "2001:DB8:0::/48": "2001:db8::/48",
        "::1": "::1/128",
        "::/0": "::/0",
        "::ffff:10.0.0.1": "10.0.0.1/32",
        "::ffff:10.0.0.0/104": "10.0.0.0/8",
        "::ffff:0:0/96": "0.0.0.0/0",
    }.items():
        assert str(parse_network(text, field="cidr")) == normal


def test_host_bits_are_told_with_what_was_meant() -> None:
    with pytest.raises(InvalidRequest, match=r"10\.0\.0\.0/8 for the network"):
        parse_network("10.0.0.1/8", field="cidr")


def test_addresses_are_parsed_strictly_and_normalised() -> None:
    assert str(parse_address("::ffff:192.0.2.1", field="ip")) == "192.0.2.1"
    assert str(normal_address(ipaddress.ip_address("fe80::1%eth0"))) == "fe80::1"
    for text in ("", "10.0.0.0/8", "1.2.3.4:80", "[::1]", "fe80::1%eth0", "9" * 1000):
        with pytest.raises(InvalidRequest) as caught:
            parse_address(text, field="ip")
        assert caught.value.field == "ip"


def test_a_set_of_networks_knows_what_it_holds() -> None:
    some = Networks(["10.0.0.0/8", "2001:db8::/32"], field="x")

    assert ipaddress.ip_address("10.1.1.1") in some
    assert ipaddress.ip_address("2001:db8::1") in some
    assert ipaddress.ip_address("11.0.0.0") not in some
    assert not some.is_empty
    assert Networks([], field="x").is_empty
