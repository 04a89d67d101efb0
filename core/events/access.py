"""
What happens to rights: keys, IP filters and bans, as every process must hear of it (law 6).

The database writes a change down in the transaction that makes it (migration 0003); core/access/changes/ brings it to
the change log in Redis, and the watch of every process follows that log, and the table behind it.
At least once, in any order: entries carry the version of their row, and an older one changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from core.ids import KeyId


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a virtual key; None: no limit. Requests count per route, tokens and tasks over the whole key."""

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """
    A virtual key was created, changed, disabled, rotated or deleted.

    Args:
        version: of its row now.
        hashes: hexadecimal, of its clear keys before and after: copies under them are older than `version`.
    """

    key_id: KeyId
    version: int
    hashes: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class KeysChanged:
    """`{"kind": "key", "entries": [{"id", "version", "hashes": [...], "rpm", "rpd", "tpm", "concurrency"}, ...]}`"""

    keys: tuple[ChangedKey, ...]


@dataclass(frozen=True, slots=True)
class IpFiltersChanged:
    """`{"kind": "ip_filters", "version": 7}`; the version of the whole set."""

    version: int


@dataclass(frozen=True, slots=True)
class ChangedBan:
    """
    Args:
        network: a CIDR, e.g. `192.0.2.7/32`.
        until: Unix time, seconds; in the past: lifted.
    """

    network: str
    version: int
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class BansChanged:
    """`{"kind": "ban", "entries": [{"network", "version", "until", "reason"}, ...]}`"""

    bans: tuple[ChangedBan, ...]


@dataclass(frozen=True, slots=True)
class LimitsRefreshed:
    """
    What changed since the last refresh, told again by the job `refresh_rate_limits`; empty when nothing did.

    `{"kind": "limits", "entries": [...]}`, the entries as of a changed key.
    """

    keys: tuple[ChangedKey, ...]


@dataclass(frozen=True, slots=True)
class EntriesDropped:
    """
    An operator dropped entries of a cache: `{"kind": "drop", "cache": "virtual_keys", "ids": [...]}`.

    Args:
        ids: of the cache's entries; None: all of them.
    """

    cache: str
    ids: tuple[str, ...] | None


Change = KeysChanged | IpFiltersChanged | BansChanged | LimitsRefreshed | EntriesDropped


def change_of(text: str | bytes) -> Change | None:
    """
    A change as its JSON; None: of a kind that this process does not know (a newer one is being deployed).

    Raises:
        ValueError, KeyError, TypeError: not one of ours.
    """
    value: dict[str, Any] = orjson.loads(text)
    match value["kind"]:
        case "key":
            return KeysChanged(_keys(value))
        case "limits":
            return LimitsRefreshed(_keys(value))
        case "ip_filters":
            return IpFiltersChanged(int(value["version"]))
        case "ban":
            return BansChanged(
                tuple(
                    ChangedBan(str(e["network"]), int(e["version"]), float(e["until"]), str(e["reason"]))
                    for e in _entries(value)
                )
            )
        case "drop":
            ids = cast("list[Any] | None", value["ids"])
            return EntriesDropped(str(value["cache"]), None if ids is None else tuple(str(id) for id in ids))
        case _:
            return None


def json_of(change: LimitsRefreshed | EntriesDropped) -> bytes:
    """The JSON of a change that no trigger writes."""
    match change:
        case LimitsRefreshed(keys):
            entries = [
                {
                    "id": key.key_id,
                    "version": key.version,
                    "hashes": key.hashes,
                    "rpm": key.limits.rpm,
                    "rpd": key.limits.rpd,
                    "tpm": key.limits.tpm,
                    "concurrency": key.limits.concurrency,
                }
                for key in keys
            ]
            return orjson.dumps({"kind": "limits", "entries": entries})
        case EntriesDropped(cache, ids):
            return orjson.dumps({"kind": "drop", "cache": cache, "ids": ids})


def _keys(value: Mapping[str, Any]) -> tuple[ChangedKey, ...]:
    return tuple(
        ChangedKey(
            KeyId(str(e["id"])),
            int(e["version"]),
            tuple(str(h) for h in e["hashes"]),
            Limits(*(None if e[name] is None else int(e[name]) for name in ("rpm", "rpd", "tpm", "concurrency"))),
        )
        for e in _entries(value)
    )


def _entries(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", value["entries"])
