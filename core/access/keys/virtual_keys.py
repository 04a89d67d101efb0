"""
The table of virtual keys: who may use Headrace, for what and how much. A key is shown once and stored as a hash.

Every change is written down for all processes by the database itself, in the same statement (migration 0003); this file
writes no versions and no changes, it only asks for the news to be carried on at once (`announce`). Cold path: the door
asks core/access/keys/authenticator.py, which remembers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from core.access.keys import fields as key_fields
from core.access.keys import lookup as key_lookup
from core.access.keys import pages as key_pages
from core.access.keys.lookup import Found
from core.access.keys.model import NO_LIMITS, VirtualKey
from core.access.keys.pages import KeyPage
from core.access.keys.peppers import Peppers, Presented
from core.access.keys.rows import COLUMNS, key_of
from core.access.keys.text import new_clear_key, new_key_id
from core.access.tables import virtual_keys
from core.errors import KeyChanged, KeyNotFound
from core.events.access import Limits
from core.ids import KeyId

OVERLAP = timedelta(hours=24)
"""How long a replaced secret goes on working unless it is said otherwise."""

_c = virtual_keys.c


class Unset:
    """The type of UNSET."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()
"""Of a field in an update: leave it. None clears it."""


@dataclass(frozen=True, slots=True)
class NewVirtualKey:
    """A key at the one moment when its clear form is known. `key` is it as every process sees it."""

    key_id: KeyId
    name: str
    clear_key: str = field(repr=False)
    key: VirtualKey


def _tell_nobody() -> None:
    return


class VirtualKeys:
    """
    Thread-safe. Every method may raise what SQLAlchemy does when the database is away: callers turn it into
    StoreUnavailable (`database_errors`).

    Args:
        connect: of an engine that commits each statement by itself.
        announce: called after the commit of a change. It may fail to reach anybody, and must not raise.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[sa.Connection]],
        peppers: Peppers,
        *,
        announce: Callable[[], object] = _tell_nobody,
    ) -> None:
        self._connect = connect
        self._peppers = peppers
        self._announce = announce

    # --- change -------------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        *,
        group: str | None = None,
        expires_at: datetime | None = None,
        allowed_types: Sequence[str] = (),
        allowed_models: Sequence[str] = (),
        limits: Limits = NO_LIMITS,
    ) -> NewVirtualKey:
        """
        Raises:
            InvalidRequest: names the field.
        """
        values: dict[str, object] = {
            "name": key_fields.checked_name(name),
            "group_name": key_fields.checked_group(group),
            "expires_at": key_fields.checked_expiry(expires_at),
            "allowed_types": key_fields.checked_types(allowed_types),
            "allowed_models": key_fields.checked_models(allowed_models),
            **key_fields.checked_limits(limits),
        }
        key_id = new_key_id()
        clear_key = new_clear_key(key_id)
        values |= {"key_id": key_id, "created_at": sa.func.now(), **self._hashed(clear_key)}
        with self._connect() as connection:
            row = connection.execute(virtual_keys.insert().values(values).returning(*COLUMNS)).mappings().one()
        self._announce()
        key = key_of(row)
        return NewVirtualKey(key.key_id, key.name, clear_key, key)

    def update(
        self,
        key_id: str,
        *,
        name: str | Unset = UNSET,
        group: str | Unset | None = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        allowed_types: Sequence[str] | Unset | None = UNSET,
        allowed_models: Sequence[str] | Unset | None = UNSET,
        rpm: int | Unset | None = UNSET,
        rpd: int | Unset | None = UNSET,
        tpm: int | Unset | None = UNSET,
        concurrency: int | Unset | None = UNSET,
        enabled: bool | Unset = UNSET,
        if_version: int | None = None,
    ) -> VirtualKey:
        """
        Change what is given and leave the rest; None clears a field.

        Args:
            if_version: only if the row is still this one.

        Raises:
            InvalidRequest: names the field.
            KeyNotFound: no such key, or it is deleted.
            KeyChanged: it has another version than `if_version`.
        """
        values: dict[str, Any] = {}
        if not isinstance(name, Unset):
            values["name"] = key_fields.checked_name(name)
        if not isinstance(group, Unset):
            values["group_name"] = key_fields.checked_group(group)
        if not isinstance(expires_at, Unset):
            values["expires_at"] = key_fields.checked_expiry(expires_at)
        if not isinstance(allowed_types, Unset):
            values["allowed_types"] = key_fields.checked_types(allowed_types)
        if not isinstance(allowed_models, Unset):
            values["allowed_models"] = key_fields.checked_models(allowed_models)
        for field_name, limit in (("rpm", rpm), ("rpd", rpd), ("tpm", tpm), ("concurrency", concurrency)):
            if not isinstance(limit, Unset):
                values[field_name] = key_fields.checked_limit(field_name, limit)
        if not isinstance(enabled, Unset):
            values["disabled_at"] = None if enabled else sa.func.coalesce(_c.disabled_at, sa.func.now())
        return self._change(key_id, values, if_version=if_version)

    def disable(self, key_id: str) -> VirtualKey:
        """
        Refuse the key from now on; disabling it again changes nothing.

        Raises:
            KeyNotFound: no such key.
        """
        return self._change(key_id, {"disabled_at": sa.func.now()}, where=_c.disabled_at.is_(None))

    def enable(self, key_id: str) -> VirtualKey:
        """Let a disabled key in again; enabling it again changes nothing. Raises as `disable`."""
        return self._change(key_id, {"disabled_at": None}, where=_c.disabled_at.is_not(None))

    def rotate(self, key_id: str, overlap: timedelta = OVERLAP) -> NewVirtualKey:
        """
        Give the key a new secret; its id, its tasks and its rights stay.

        Args:
            overlap: how long the secret so far goes on working; zero: it ends now. One that an earlier rotation left
                working ends now in any case.

        Raises:
            InvalidRequest: the overlap is negative or over 30 days.
            KeyNotFound: no such key.
        """
        key_fields.checked_overlap(overlap)
        clear_key = new_clear_key(KeyId(key_id))
        # One statement: two rotations at the same moment follow each other, and no secret is lost sight of.
        previous: dict[str, Any] = {"previous_hash": None, "previous_pepper_version": None, "previous_until": None}
        if overlap:
            previous = {
                "previous_hash": _c.key_hash,
                "previous_pepper_version": _c.pepper_version,
                "previous_until": sa.func.now() + overlap,
            }
        key = self._change(key_id, {**previous, **self._hashed(clear_key)})
        return NewVirtualKey(key.key_id, key.name, clear_key, key)

    def delete(self, key_id: str) -> None:
        """
        Refuse the key for good. Its row stays, out of every list, since tasks and money refer to it; its hashes go.

        Raises:
            KeyNotFound: no such key, or it is deleted already.
        """
        gone: dict[str, Any] = {
            "deleted_at": sa.func.now(),
            "key_hash": secrets.token_bytes(32),  # of nothing: no clear key can match it
            "previous_hash": None,
            "previous_pepper_version": None,
            "previous_until": None,
        }
        self._change(key_id, gone)

    # --- read ---------------------------------------------------------------------------------------------------

    def get(self, key_id: str) -> VirtualKey:
        """
        Raises:
            KeyNotFound: no such key, or it is deleted.
        """
        key = self.find(key_id)
        if key is None:
            raise _not_found(key_id)
        return key

    def find(self, key_id: str) -> VirtualKey | None:
        """As `get`; None: there is none."""
        with self._connect() as connection:
            row = connection.execute(sa.select(*COLUMNS).where(*key_lookup.is_key(key_id))).mappings().first()
        return None if row is None else key_of(row)

    def find_many(self, key_ids: Sequence[str]) -> list[VirtualKey]:
        """In any order, without those that are not there or are deleted."""
        with self._connect() as connection:
            query = sa.select(*COLUMNS).where(_c.key_id == sa.any_(sa.literal(list(key_ids), sa.ARRAY(sa.Text))))
            rows = connection.execute(query.where(_c.deleted_at.is_(None))).mappings().all()
        return [key_of(row) for row in rows]

    def exists(self, key_id: str) -> bool:
        """A disabled key exists, a deleted one does not."""
        with self._connect() as connection:
            return connection.execute(sa.select(_c.key_id).where(*key_lookup.is_key(key_id))).first() is not None

    def page(
        self, *, limit: int = 50, cursor: str | None = None, group: str | None = None, newest_first: bool = False
    ) -> KeyPage:
        """
        A page by (created_at, key_id), never by offset: what is made or deleted meanwhile moves nothing.

        Raises:
            InvalidRequest: `limit` or `cursor` is not one of ours.
        """
        with self._connect() as connection:
            return key_pages.read(connection, limit=limit, cursor=cursor, group=group, newest_first=newest_first)

    def list(self) -> list[VirtualKey]:
        """All of them, oldest first, page by page; for the command line and tests."""
        found: list[VirtualKey] = []
        cursor: str | None = None
        while True:
            page = self.page(limit=key_pages.MAX_PAGE, cursor=cursor)
            found += page.keys
            cursor = page.next_cursor
            if cursor is None:
                return found

    def pepper_versions(self) -> dict[int, int]:
        """
        How many secrets that still work are hashed with which pepper, e.g. `{1: 3, 2: 40}`: a pepper that is not here
        may leave the settings. Reads the whole table.
        """
        with self._connect() as connection:
            return key_pages.pepper_versions(connection)

    # --- authenticate -------------------------------------------------------------------------------------------

    def authenticate(self, clear_key: str) -> VirtualKey | None:
        """
        The key that this is now, from the table, or None: malformed, unknown, wrong, deleted, disabled and expired are
        not told apart.
        """
        presented = self._peppers.present(clear_key)
        key = None if presented is None else self.look_up(presented).key
        return key if key is not None and key.grants(datetime.now(UTC)) else None

    def look_up(self, presented: Presented) -> Found:
        """The key whose secret was shown, whether it is enabled or not: see core/access/keys/lookup.py."""
        with self._connect() as connection:
            found = key_lookup.look_up(connection, presented, current_pepper=self._peppers.current)
        if found.was_hashed_anew:
            self._announce()
        return found

    def _hashed(self, clear_key: str) -> dict[str, object]:
        return {"key_hash": self._peppers.hash(clear_key), "pepper_version": self._peppers.current}

    def _change(
        self,
        key_id: str,
        values: dict[str, Any],
        *,
        where: sa.ColumnElement[bool] | None = None,
        if_version: int | None = None,
    ) -> VirtualKey:
        """Args: where: what else must hold for there to be something to change."""
        conditions = [*key_lookup.is_key(key_id)]
        if where is not None:
            conditions.append(where)
        if if_version is not None:
            conditions.append(_c.version == if_version)
        if values:
            with self._connect() as connection:
                statement = virtual_keys.update().where(*conditions).values(values).returning(*COLUMNS)
                row = connection.execute(statement).mappings().first()
            if row is not None:
                self._announce()
                return key_of(row)
        key = self.get(key_id)
        if if_version is not None and key.version != if_version:
            raise KeyChanged(f"key {key_id} has version {key.version}, not {if_version}; read it again")
        return key


def _not_found(key_id: str) -> KeyNotFound:
    return KeyNotFound(f"no key {key_id[:60]}; `headrace keys list` shows them")
