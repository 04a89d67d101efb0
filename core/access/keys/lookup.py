"""
The one way from a secret that was shown to its key: by the public id, then by comparing hashes in constant time.

A secret that is hashed with an older pepper is hashed anew with the current one when it is used.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from core.access.keys.model import VirtualKey
from core.access.keys.peppers import Presented
from core.access.keys.rows import COLUMNS, Row, key_of
from core.access.tables import virtual_keys

logger = logging.getLogger(__name__)

_c = virtual_keys.c
_SECRET_COLUMNS = (_c.key_hash, _c.pepper_version, _c.previous_hash, _c.previous_pepper_version, _c.previous_until)


@dataclass(frozen=True, slots=True)
class Found:
    """
    Args:
        key: also when it is disabled or has expired. None is proof that the secret is unknown, wrong or replaced, the
            key deleted, or hashed with a pepper that is not in the settings.
        pepper_version: of the hash in the row by which it was found. A copy that is named by another hash would not
            hear of changes, which are told by the hashes in the row.
    """

    key: VirtualKey | None
    pepper_version: int = 0
    was_hashed_anew: bool = False


_NOBODY = Found(None)


def look_up(connection: sa.Connection, presented: Presented, *, current_pepper: int) -> Found:
    """
    One query; two more at the first use after a pepper was replaced. The connection commits each statement.

    A hash only moves to a pepper with a higher number: while processes with the old and with the new order of peppers
    run side by side, they must not take turns at the row.
    """
    query = sa.select(*COLUMNS, *_SECRET_COLUMNS).where(*is_key(presented.key_id))
    row = connection.execute(query).mappings().first()
    found = _NOBODY if row is None else _matching(row, presented)
    if row is None or found.key is None or found.pepper_version >= current_pepper:
        return found
    prefix, column = ("", "key_hash") if found.key.secret_until is None else ("previous_", "previous_hash")
    values = {column: presented.hashes[current_pepper], f"{prefix}pepper_version": current_pepper}
    # Fenced by the hash: a rotation in between must not get its secret replaced by the one before it.
    statement = (
        virtual_keys.update()
        .where(*is_key(presented.key_id), _c[column] == row[column])
        .values(values)
        .returning(*COLUMNS, *_SECRET_COLUMNS)
    )
    try:
        changed = connection.execute(statement).mappings().first()
        if changed is None:  # somebody was faster: what did they make of it?
            again = connection.execute(query).mappings().first()
            return _NOBODY if again is None else _matching(again, presented)
    except DBAPIError as error:
        # A database that takes no writes must not refuse a key that it has just proved right; the next use tries again.
        logger.warning(
            "a key was not hashed with the current pepper",
            extra={"key_id": presented.key_id, "reason": type(error).__name__},
        )
        return found
    return replace(_matching(changed, presented), was_hashed_anew=True)


def is_key(key_id: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    """The key of this public id, unless it is deleted."""
    return _c.key_id == key_id, _c.deleted_at.is_(None)


def _matching(row: Row, presented: Presented) -> Found:
    """The key, when what was shown is its secret or the one before it, and that one's time is not over."""
    if _is_equal(row["key_hash"], presented.hashes.get(row["pepper_version"])):
        return Found(key_of(row), row["pepper_version"])
    until: datetime | None = row["previous_until"]
    if until is None or until <= datetime.now(UTC):
        return _NOBODY
    if _is_equal(row["previous_hash"], presented.hashes.get(row["previous_pepper_version"])):
        return Found(key_of(row, secret_until=until), row["previous_pepper_version"])
    return _NOBODY


def _is_equal(stored: bytes | None, shown: bytes | None) -> bool:
    return stored is not None and shown is not None and hmac.compare_digest(bytes(stored), shown)
