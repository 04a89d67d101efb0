"""
The rows of `bans`: the truth about who is banned, how long, and how often before.

A ban lasts `ban_s` * 2^level, at most a day; the level rises with each ban and starts over after seven days without.
Rows are never updated to an older state: their version rises by a trigger, and a new row begins above any deleted one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, ip_address
from typing import Any

import sqlalchemy as sa

from core.access.addresses.addresses import BAN_LENGTHS, BanNetwork, ban_networks
from core.access.addresses.networks import parse_network
from core.errors import InvalidRequest, NotFound

LONGEST_S = 86_400.0
REMEMBERED = "7 days"
_HIGHEST_LEVEL = 20  # 2^17 s are more than a day

# Seconds since 2023, so that a row made again after it was pruned has a higher version than before.
_FIRST_VERSION = "(extract(epoch FROM clock_timestamp()) - 1700000000)::int"
_ROW = (
    "network::text AS network, reason, failures, level, version, created_at, until_at, "
    "extract(epoch FROM until_at)::float8 AS end_s, until_at > clock_timestamp() AS is_active"
)

_NEXT_LEVEL = (
    f"(CASE WHEN bans.until_at < excluded.created_at - interval '{REMEMBERED}' THEN 0 "
    f"ELSE least(bans.level + 1, {_HIGHEST_LEVEL}) END)"
)

_BAN = f"""
INSERT INTO bans (network, reason, failures, level, version, created_at, until_at)
SELECT network, reason, failures, 0, {_FIRST_VERSION}, began, began + make_interval(secs => %(ban_s)s)
FROM (SELECT network, reason, failures, clock_timestamp() - make_interval(secs => ago) AS began
      FROM unnest(%(networks)s::cidr[], %(reasons)s::text[], %(failures)s::int[], %(ago)s::float8[])
        AS given (network, reason, failures, ago)) new
ORDER BY network
ON CONFLICT (network) DO UPDATE SET
    reason = excluded.reason, failures = excluded.failures, created_at = excluded.created_at, level = {_NEXT_LEVEL},
    until_at = excluded.created_at + make_interval(secs => least(%(ban_s)s * power(2, {_NEXT_LEVEL}), {LONGEST_S}))
WHERE bans.until_at <= excluded.created_at
"""  # noqa: S608 (constants of this file)

_ADD = f"""
INSERT INTO bans (network, reason, failures, level, version, created_at, until_at)
VALUES (%(network)s::cidr, %(reason)s, 0, 0, {_FIRST_VERSION}, clock_timestamp(), %(until)s)
ON CONFLICT (network) DO UPDATE SET
    reason = excluded.reason, failures = 0, created_at = excluded.created_at, until_at = excluded.until_at
RETURNING {_ROW}
"""  # noqa: S608 (constants of this file)

_LIFT = f"""
UPDATE bans SET until_at = clock_timestamp() WHERE network = %(network)s::cidr AND until_at > clock_timestamp()
RETURNING {_ROW}
"""  # noqa: S608 (constants of this file)

_FORGET = f"""
DELETE FROM bans WHERE network IN (
    SELECT network FROM bans WHERE until_at < now() - interval '{REMEMBERED}'
    ORDER BY until_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
"""  # noqa: S608 (constants of this file)


class BanNotFound(NotFound):
    code = "ban_not_found"


@dataclass(frozen=True, slots=True)
class BanRow:
    """
    Args:
        network: a CIDR.
        failures: that led to it; 0: an operator's.
        level: bans in a row before this one.
        end_s: `until_at` as Unix time.
    """

    network: str
    reason: str
    failures: int
    level: int
    version: int
    created_at: datetime
    until_at: datetime
    end_s: float
    is_active: bool

    def to_document(self) -> dict[str, object]:
        return {
            "ip": self.network,
            "reason": self.reason,
            "failures": self.failures,
            "level": self.level,
            "created_at": self.created_at,
            "until": self.until_at,
            "active": self.is_active,
        }


@dataclass(frozen=True, slots=True)
class BanPage:
    """By network; `next_cursor` is None on the last page."""

    bans: list[BanRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class NewBan:
    """
    Args:
        ago_s: since it was decided; the row may be written long after.
    """

    network: BanNetwork
    reason: str
    failures: int
    ago_s: float = 0.0


def parse_ban_network(text: str, *, field: str) -> BanNetwork:
    """
    What an operator may ban: an IPv4 address, or an IPv6 /64, /56 or /48; an IPv6 address stands for its /64.

    Raises:
        InvalidRequest: anything else; IP filters are for wider networks.
    """
    network = parse_network(text, field=field)
    choices = ban_networks(network.network_address)
    if isinstance(network, IPv4Network):
        if network.prefixlen == 32:
            return choices[0]
    elif network.prefixlen == 128:
        return choices[0]
    elif network.prefixlen in BAN_LENGTHS:
        return choices[BAN_LENGTHS.index(network.prefixlen)]
    raise InvalidRequest(
        f"{field}: bans are for an address, or an IPv6 /64, /56 or /48; refuse {network} with an IP filter", field=field
    )


def number_of(network: str) -> int | None:
    """The number of a row's network (core/access/addresses/addresses.py); None: a length that is never banned."""
    address, _, length = network.partition("/")
    choices = ban_networks(ip_address(address))
    return next((choice.number for choice in choices if choice.cidr.endswith("/" + length)), None)


def word_of(network: str) -> str:
    """A row's network as Redis keys have it: an IPv4 address without its /32."""
    return network.removesuffix("/32") if "." in network else network


def write(connection: sa.Connection, bans: Sequence[NewBan], *, ban_s: float) -> list[BanRow]:
    """
    The rows of `bans` (each network once), new or longer; a ban that was in force stays as it is. In one transaction.
    """
    values = {
        "networks": [ban.network.cidr for ban in bans],
        "reasons": [ban.reason for ban in bans],
        "failures": [ban.failures for ban in bans],
        "ago": [ban.ago_s for ban in bans],
        "ban_s": ban_s,
    }
    connection.exec_driver_sql(_BAN, values)
    return find(connection, [ban.network for ban in bans])


def find(connection: sa.Connection, networks: Sequence[BanNetwork]) -> list[BanRow]:
    query = f"SELECT {_ROW} FROM bans WHERE network = ANY(%(networks)s::cidr[])"  # noqa: S608 (constants of this file)
    rows = connection.exec_driver_sql(query, {"networks": [network.cidr for network in networks]})
    return [_of_row(row) for row in rows.mappings()]


def add(connection: sa.Connection, network: BanNetwork, reason: str, until: datetime) -> BanRow:
    """An operator's: its end is what was said, sooner or later than before."""
    values = {"network": network.cidr, "reason": reason, "until": until}
    return _of_row(connection.exec_driver_sql(_ADD, values).mappings().one())


def lift(connection: sa.Connection, network: BanNetwork) -> BanRow | None:
    """End it now; the row stays and with it the level. None: it is not in force."""
    row = connection.exec_driver_sql(_LIFT, {"network": network.cidr}).mappings().first()
    return None if row is None else _of_row(row)


def page(connection: sa.Connection, *, limit: int, cursor: str | None, all_of_them: bool) -> BanPage:
    """
    Raises:
        InvalidRequest: a cursor that is not ours.
    """
    values: dict[str, Any] = {"limit": limit + 1, "after": None if cursor is None else _decode(cursor)}
    query = (
        f"SELECT {_ROW} FROM bans WHERE (%(after)s::cidr IS NULL OR network > %(after)s::cidr)"  # noqa: S608 (constants)
        f" {'' if all_of_them else 'AND until_at > clock_timestamp()'} ORDER BY bans.network LIMIT %(limit)s"
    )
    found = [_of_row(row) for row in connection.exec_driver_sql(query, values).mappings()]
    return BanPage(found[:limit], _encode(found[limit - 1].network) if len(found) > limit else None)


def load(connection: sa.Connection, most: int) -> list[tuple[str, int, float]]:
    """(network, version, end as Unix time) of those in force, and of those that ended a moment ago; last ends first."""
    query = (
        "SELECT network::text, version, extract(epoch FROM until_at)::float8 FROM bans"
        " WHERE until_at > clock_timestamp() - interval '1 minute' ORDER BY until_at DESC LIMIT %(most)s"
    )
    return [(str(row[0]), int(row[1]), float(row[2])) for row in connection.exec_driver_sql(query, {"most": most})]


def clock(connection: sa.Connection) -> float:
    """The database's Unix time."""
    return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar_one())


def forget(connection: sa.Connection, limit: int) -> int:
    """Delete rows that no level depends on any more; how many."""
    return connection.exec_driver_sql(_FORGET, {"limit": limit}).rowcount


def _of_row(row: sa.RowMapping) -> BanRow:
    return BanRow(**row)


def _encode(network: str) -> str:
    return base64.urlsafe_b64encode(network.encode()).rstrip(b"=").decode()


def _decode(text: str) -> str:
    try:
        network = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
        return str(parse_network(network, field="cursor"))
    except (binascii.Error, ValueError, InvalidRequest):
        raise InvalidRequest("cursor: not one that this server made; start without it", field="cursor") from None
