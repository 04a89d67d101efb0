"""The rows of `ip_filters`, as operators make and change them; a trigger raises the version of the set each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from core.access.addresses.ip_rules import Action, Rule, RuleSet
from core.access.addresses.networks import Network
from core.access.addresses.pages import decode_cursor, encode_cursor
from core.access.tables import access_versions, ip_filters
from core.errors import Conflict, NotFound
from core.ids import new_task_id

SET = "ip_filters"
MOST_RULES = 10_000  # a process compiles that many in a tenth of a second; more are a job for a firewall

c = ip_filters.c
_CIDR = sa.cast(c.cidr, sa.Text).label("cidr")
_COLUMNS = (c.id, c.action, _CIDR, c.key_id, c.enabled, c.note, c.version, c.created_at, c.changed_at)

# One statement, so that rules and version are of the same moment.
_LOAD = """
SELECT v.version, f.id, f.action, f.cidr::text, f.key_id
FROM access_versions v LEFT JOIN ip_filters f ON f.enabled
WHERE v.name = 'ip_filters'
"""


class IpFilterNotFound(NotFound):
    code = "ip_filter_not_found"


class IpFilterExists(Conflict):
    """The same action for the same network and key; `field` is what to change."""

    code = "ip_filter_exists"
    field = "cidr"


class TooManyIpFilters(Conflict):
    code = "too_many_ip_filters"


@dataclass(frozen=True, slots=True)
class IpFilter:
    """A rule as operators see it."""

    id: UUID
    action: Action
    network: Network
    key_id: str | None
    enabled: bool
    note: str
    version: int
    created_at: datetime
    changed_at: datetime

    def to_document(self) -> dict[str, object]:
        return {
            "id": str(self.id),
            "action": self.action,
            "cidr": str(self.network),
            "key_id": self.key_id,
            "enabled": self.enabled,
            "note": self.note,
            "version": self.version,
            "created_at": self.created_at,
            "changed_at": self.changed_at,
        }


@dataclass(frozen=True, slots=True)
class IpFilterPage:
    """Oldest first; `next_cursor` is None on the last page."""

    filters: list[IpFilter]
    next_cursor: str | None


def lock(connection: sa.Connection) -> None:
    """Writers one after the other: a duplicate is seen, and the set is counted."""
    connection.execute(sa.select(access_versions.c.version).where(access_versions.c.name == SET).with_for_update())


def version(connection: sa.Connection) -> int:
    query = sa.select(access_versions.c.version).where(access_versions.c.name == SET)
    return int(connection.execute(query).scalar_one())


def load(connection: sa.Connection) -> RuleSet:
    """The enabled rules."""
    rows = connection.exec_driver_sql(_LOAD).all()
    rules = (
        Rule(row[1], Action(row[2]), ip_network(row[3]), None if row[4] is None else str(row[4]))
        for row in rows
        if row[1] is not None
    )
    return RuleSet(int(rows[0][0]), tuple(rules))


def find(connection: sa.Connection, filter_id: str) -> IpFilter:
    """Raises: IpFilterNotFound."""
    row = connection.execute(sa.select(*_COLUMNS).where(c.id == _id_of(filter_id))).first()
    if row is None:
        raise _not_found(filter_id)
    return _of_row(row)


def page(connection: sa.Connection, *, limit: int, cursor: str | None, key_id: str | None) -> IpFilterPage:
    query = sa.select(*_COLUMNS).order_by(c.id).limit(limit + 1)
    if cursor is not None:
        query = query.where(c.id > decode_cursor(cursor))
    if key_id is not None:
        query = query.where(c.key_id == key_id)
    found = [_of_row(row) for row in connection.execute(query)]
    return IpFilterPage(found[:limit], encode_cursor(found[limit - 1].id) if len(found) > limit else None)


def insert(connection: sa.Connection, values: Mapping[str, Any]) -> IpFilter:
    """
    The caller has taken the lock.

    Raises:
        IpFilterExists, TooManyIpFilters.
    """
    _check_alone(connection, values, but=None)
    if connection.execute(sa.select(sa.func.count()).select_from(ip_filters)).scalar_one() >= MOST_RULES:
        raise TooManyIpFilters(f"there are {MOST_RULES} rules, the most there may be; remove some, or put wider ones")
    times = {"created_at": sa.func.now(), "changed_at": sa.func.now()}
    statement = ip_filters.insert().values(id=new_task_id(), version=1, **values, **times)
    return _of_row(connection.execute(statement.returning(*_COLUMNS)).one())


def change(connection: sa.Connection, filter_id: str, values: Mapping[str, Any]) -> IpFilter:
    """
    The caller has taken the lock. What stays as it is changes nothing, not even the version.

    Raises:
        IpFilterNotFound, IpFilterExists.
    """
    old = find(connection, filter_id)
    before = {name: getattr(old, name) for name in ("action", "key_id", "enabled", "note")}
    after = {**before, "cidr": old.network, **values}
    if after == {**before, "cidr": old.network}:
        return old
    _check_alone(connection, after, but=old.id)
    statement = ip_filters.update().where(c.id == old.id).values(**after, changed_at=sa.func.now())
    return _of_row(connection.execute(statement.returning(*_COLUMNS)).one())


def delete(connection: sa.Connection, filter_id: str) -> None:
    """Raises: IpFilterNotFound."""
    if connection.execute(ip_filters.delete().where(c.id == _id_of(filter_id))).rowcount == 0:
        raise _not_found(filter_id)


def _check_alone(connection: sa.Connection, values: Mapping[str, Any], *, but: UUID | None) -> None:
    query = sa.select(c.id).where(
        c.action == values["action"],
        c.cidr == values["cidr"],
        c.key_id.is_not_distinct_from(values["key_id"]),
    )
    if but is not None:
        query = query.where(c.id != but)
    found = connection.execute(query).scalar()
    if found is not None:
        raise IpFilterExists(f"cidr: rule {found} says the same already; change that one")


def _id_of(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _not_found(text) from None


def _not_found(filter_id: str) -> IpFilterNotFound:
    return IpFilterNotFound(f"no IP filter {filter_id[:60]!r}; GET /v1/admin/ip-filters lists them")


def _of_row(values: Sequence[Any]) -> IpFilter:
    return IpFilter(values[0], Action(values[1]), ip_network(values[2]), *values[3:])
