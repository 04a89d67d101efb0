"""What the door decides in memory for each request: the client's address, its ban, and a thousand IP filters."""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address, ip_network
from uuid import uuid4

from bench.figures import Report
from core.access.addresses.ip_rules import Action, CompiledRules, Rule, RuleSet
from core.app import App
from web.client_address import client_of

CALLS = 5_000
ROUNDS = 20


def expect(report: Report) -> None:
    report.expect("client_of_us", "<", 2)
    report.expect("is_banned_us", "<", 1)
    report.expect("ip_filters_1000_us", "<", 5)


def measure(app: App, report: Report) -> None:
    """The best of many short runs: what it costs, not what else the machine did. The dearer IPv6 each time."""
    scope = {"headers": [(b"host", b"x"), (b"authorization", b"y"), (b"accept", b"z")], "client": ("2001:db8::9", 1)}
    client = client_of(scope, app.access.proxies)
    report.add("client_of_us", _best_us(partial(client_of, scope, app.access.proxies)))
    report.add("is_banned_us", _best_us(partial(app.access.bans.is_banned, client)))
    report.add("ip_filters_1000_us", _best_us(partial(_thousand_rules().check, ip_address("2001:db8::1"), "k")))


def _best_us(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def _thousand_rules() -> CompiledRules:
    chance = random.Random(7)

    def rule(bits: int, shortest: int) -> Rule:
        network = ip_network((chance.getrandbits(bits), chance.randint(shortest, bits)), strict=False)
        return Rule(uuid4(), chance.choice(list(Action)), network, chance.choice([None, "k"]))

    return CompiledRules(RuleSet(1, tuple([rule(128, 20) for _ in range(500)] + [rule(32, 8) for _ in range(500)])))
