"""Lists of virtual keys, as operators read them; deleted keys are in none."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from core.access.keys.model import VirtualKey
from core.access.keys.rows import COLUMNS, key_of
from core.access.keys.text import is_key_id
from core.access.tables import virtual_keys
from core.errors import InvalidRequest
from core.ids import KeyId

MAX_PAGE = 200
_c = virtual_keys.c


@dataclass(frozen=True, slots=True)
class KeyPage:
    """`next_cursor` is None on the last page."""

    keys: list[VirtualKey]
    next_cursor: str | None


def read(
    connection: sa.Connection, *, limit: int, cursor: str | None, group: str | None, newest_first: bool
) -> KeyPage:
    """
    Raises:
        InvalidRequest: `limit` or `cursor` is not one of ours.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit: must be a whole number from 1 to {MAX_PAGE}", field="limit")
    place = sa.tuple_(_c.created_at, _c.key_id)
    query = sa.select(*COLUMNS).where(_c.deleted_at.is_(None)).limit(limit + 1)
    if newest_first:
        query = query.order_by(_c.created_at.desc(), _c.key_id.desc())
    else:
        query = query.order_by(_c.created_at, _c.key_id)
    if group is not None:
        query = query.where(_c.group_name == group)
    if cursor is not None:
        created_at, key_id = _decode(cursor)
        start = sa.tuple_(sa.literal(created_at, sa.DateTime(timezone=True)), sa.literal(key_id, _c.key_id.type))
        query = query.where(place < start if newest_first else place > start)
    keys = [key_of(row) for row in connection.execute(query).mappings()]
    more, keys = len(keys) > limit, keys[:limit]
    return KeyPage(keys, _encode(keys[-1]) if more else None)


def pepper_versions(connection: sa.Connection) -> dict[int, int]:
    """Secrets that still work, by the pepper that their hash is of."""
    newest = sa.select(_c.pepper_version, sa.func.count()).where(_c.deleted_at.is_(None)).group_by(_c.pepper_version)
    replaced = (
        sa.select(_c.previous_pepper_version, sa.func.count())
        .where(_c.deleted_at.is_(None), _c.previous_until > sa.func.now())
        .group_by(_c.previous_pepper_version)
    )
    found: Counter[int] = Counter()
    for version, count in connection.execute(newest.union_all(replaced)):
        found[int(version)] += int(count)
    return dict(sorted(found.items()))


def _encode(key: VirtualKey) -> str:
    return base64.urlsafe_b64encode(f"{key.created_at.isoformat()} {key.key_id}".encode()).rstrip(b"=").decode()


def _decode(text: str) -> tuple[datetime, KeyId]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
        instant, _, key_id = raw.partition(" ")
        created_at = datetime.fromisoformat(instant)
        if created_at.tzinfo is None or not is_key_id(key_id):
            raise ValueError
    except (binascii.Error, ValueError):
        raise InvalidRequest("cursor is not one that this server made; start without it", field="cursor") from None
    return created_at, KeyId(key_id)
