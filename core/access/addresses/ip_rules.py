"""
What IP filters decide, from a set of rules in memory: pure, so the door and the operators' check cannot differ.

A rule is for everybody, or for one virtual key. A deny rule that matches wins over everything. Where a scope has an
enabled allow rule, an address must match one of that scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network
from typing import Any, cast
from uuid import UUID

import orjson

from core.access.addresses.networks import Address, Network, NetworkMap


class Action(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


class Scope(StrEnum):
    GLOBAL = "global"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Rule:
    """
    An enabled rule.

    Args:
        key_id: the virtual key it is for; None: everybody.
    """

    id: UUID
    action: Action
    network: Network
    key_id: str | None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """
    Args:
        version: of the whole set; it rises with every change of any rule.
    """

    version: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Args:
        rule: that decided; None: there is no rule for it, or allow rules of `scope` are there and none matches.
        scope: of what decided; None: nothing did.
    """

    allowed: bool
    rule: Rule | None = None
    scope: Scope | None = None

    def to_document(self) -> dict[str, object]:
        return {
            "allowed": self.allowed,
            "rule": None if self.rule is None else str(self.rule.id),
            "action": None if self.rule is None else self.rule.action,
            "scope": self.scope,
        }


ALLOWED = Verdict(True)


class _ScopeRules:
    __slots__ = ("allow", "deny", "scope", "unmatched")

    def __init__(self, rules: Sequence[Rule], scope: Scope) -> None:
        self.scope = scope
        self.deny = _verdicts(rules, Action.DENY, scope)
        self.allow = _verdicts(rules, Action.ALLOW, scope)
        self.unmatched = ALLOWED if self.allow.is_empty else Verdict(False, None, scope)


def _verdicts(rules: Iterable[Rule], action: Action, scope: Scope) -> NetworkMap[Verdict]:
    return NetworkMap(
        (rule.network, Verdict(action is Action.ALLOW, rule, scope)) for rule in rules if rule.action is action
    )


class CompiledRules:
    """Immutable; any thread may ask. Four bisections at most."""

    def __init__(self, rules: RuleSet) -> None:
        self.version = rules.version
        by_key: dict[str | None, list[Rule]] = {}
        for rule in rules.rules:
            by_key.setdefault(rule.key_id, []).append(rule)
        self._everybody = _ScopeRules(by_key.pop(None, []), Scope.GLOBAL)
        self._keys = {key_id: _ScopeRules(found, Scope.KEY) for key_id, found in by_key.items()}
        self._is_empty = not rules.rules

    def check(self, address: Address, key_id: str | None) -> Verdict:
        """`key_id` None: what is for everybody; else also what is for that key."""
        if self._is_empty:
            return ALLOWED
        everybody = self._everybody
        of_key = None if key_id is None else self._keys.get(key_id)
        denied = everybody.deny.find(address) or (of_key and of_key.deny.find(address))
        if denied:
            return denied
        allowed = everybody.allow.find(address) or everybody.unmatched
        if of_key is None or not allowed.allowed:
            return allowed
        found = of_key.allow.find(address)
        if found:
            return found
        return allowed if of_key.allow.is_empty else of_key.unmatched


def encode(rules: RuleSet) -> bytes:
    """`{"version": 7, "rules": [{"id": "...", "action": "deny", "cidr": "192.0.2.0/24", "key_id": null}, ...]}`"""
    return orjson.dumps(
        {
            "version": rules.version,
            "rules": [
                {"id": str(rule.id), "action": rule.action, "cidr": str(rule.network), "key_id": rule.key_id}
                for rule in rules.rules
            ],
        }
    )


def decode(text: bytes) -> RuleSet:
    """
    Raises:
        ValueError, KeyError, TypeError: not one of ours.
    """
    value = cast("dict[str, Any]", orjson.loads(text))
    rules = cast("list[dict[str, Any]]", value["rules"])
    return RuleSet(
        int(value["version"]),
        tuple(
            Rule(
                UUID(r["id"]),
                Action(r["action"]),
                ip_network(r["cidr"]),
                None if r["key_id"] is None else str(r["key_id"]),
            )
            for r in rules
        ),
    )
