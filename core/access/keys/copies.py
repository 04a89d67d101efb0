"""
Copies of virtual keys and of their limits: how they are written, and how long they count.

`vkey:{hash}` lies bare, without the instance's prefix, as in the seed: one key, one copy for all that share the Redis.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from core.access.keys.key_limits import CountedLimits
from core.access.keys.model import VirtualKey
from core.cache.spec import CacheSpec
from core.events.access import KeysChanged, Limits, LimitsRefreshed
from core.ids import KeyId

KEYS = "virtual_keys"
KEY_LIMITS = "key_limits"

KEY_LIFE_S = 1800.0
LIMITS_LIFE_S = 300.0
REFUSED_S = 10.0
"""How long it is remembered that a secret opens nothing: unknown, disabled or expired alike (S5, S6)."""

KEYS_REMEMBERED = 10_000
REFUSED_REMEMBERED = 10_000
_TIMES = ("created_at", "disabled_at", "expires_at", "secret_until")


def keys_spec() -> CacheSpec[VirtualKey]:
    return CacheSpec(
        name=KEYS,
        key=lambda hash: f"vkey:{hash}",
        encode=encode_key,
        decode=decode_key,
        version=lambda key: key.version,
        ttl_s=KEY_LIFE_S,
        memory_s=KEY_LIFE_S,
        memory_entries=KEYS_REMEMBERED,
        life_s=life_s,
        negative_s=REFUSED_S,
        negative_entries=REFUSED_REMEMBERED,
        grants_rights=True,
        dropped_by=(KeysChanged,),
    )


def limits_spec(instance: str) -> CacheSpec[CountedLimits]:
    return CacheSpec(
        name=KEY_LIMITS,
        key=lambda hash: f"{instance}vkey_ratelimits:{hash}",
        encode=encode_limits,
        decode=decode_limits,
        version=lambda limits: limits.version,
        ttl_s=LIMITS_LIFE_S,
        memory_s=1.0,  # core/access/keys/key_limits.py is the memory tier: it is asked without a hash
        memory_entries=100,
        dropped_by=(KeysChanged, LimitsRefreshed),
    )


def life_s(key: VirtualKey) -> float | None:
    """What is left of the copy's own life. One that grants nothing is kept as briefly as any other refusal."""
    now = datetime.now(UTC)
    if not key.grants(now):
        return REFUSED_S
    return None if key.ends_at is None else (key.ends_at - now).total_seconds()


def encode_key(key: VirtualKey) -> bytes:
    """The snapshot as JSON, with no hash and no counters in it."""
    limits = key.limits
    return orjson.dumps(
        {
            "id": key.key_id,
            "name": key.name,
            "group": key.group,
            "allowed_types": key.allowed_types,
            "allowed_models": key.allowed_models,
            "rpm": limits.rpm,
            "rpd": limits.rpd,
            "tpm": limits.tpm,
            "concurrency": limits.concurrency,
            "version": key.version,
            **{name: getattr(key, name) for name in _TIMES},
        },
        option=orjson.OPT_UTC_Z,
    )


def decode_key(text: bytes) -> VirtualKey:
    """
    Raises:
        ValueError, KeyError, TypeError: not one of ours.
    """
    value: dict[str, Any] = orjson.loads(text)
    created_at, disabled_at, expires_at, secret_until = (_time(value[name]) for name in _TIMES)
    if created_at is None:
        raise ValueError("created_at is missing")
    group: str | None = value["group"]
    return VirtualKey(
        key_id=KeyId(str(value["id"])),
        name=str(value["name"]),
        created_at=created_at,
        disabled_at=disabled_at,
        group=None if group is None else str(group),
        expires_at=expires_at,
        allowed_types=_texts(value["allowed_types"]),
        allowed_models=_texts(value["allowed_models"]),
        limits=_limits(value),
        version=int(value["version"]),
        secret_until=secret_until,
    )


def encode_limits(limits: CountedLimits) -> bytes:
    """`{"rpm": 60, "rpd": null, "tpm": null, "concurrency": 4, "version": 3}`; null: no limit."""
    found = limits.limits
    return orjson.dumps(
        {
            "rpm": found.rpm,
            "rpd": found.rpd,
            "tpm": found.tpm,
            "concurrency": found.concurrency,
            "version": limits.version,
        }
    )


def decode_limits(text: bytes) -> CountedLimits:
    value: dict[str, Any] = orjson.loads(text)
    return CountedLimits(_limits(value), int(value["version"]))


def _limits(value: dict[str, Any]) -> Limits:
    return Limits(*(None if value[n] is None else int(value[n]) for n in ("rpm", "rpd", "tpm", "concurrency")))


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without a zone")
    return found


def _texts(value: Any) -> tuple[str, ...]:
    # A text instead of a list would be read as its letters.
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(map(str, value))  # pyright: ignore[reportUnknownArgumentType] (members are made text)
