"""
Virtual keys: who may use Headrace. A key is shown once and stored as a hash; its public id is what logs show.

`hr_` + 12 characters public id + `_` + 43 characters secret + `_` + 6 characters checksum. The checksum refuses a
mistyped key without asking anybody; the hash is HMAC-SHA-256 with a pepper that is not in the database (a fast hash
is right for 256 random bits).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import sqlalchemy as sa

from core.access.model import VirtualKey
from core.access.tables import virtual_keys
from core.errors import InvalidRequest, KeyNotFound
from core.ids import KeyId

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(r"^hr_([A-Za-z0-9]{12})_([A-Za-z0-9_-]{43})_([A-Za-z0-9]{6})$")
PEPPER_VERSION = 1


@dataclass(frozen=True, slots=True)
class NewVirtualKey:
    """A key at the one moment when its clear form is known."""

    key_id: KeyId
    name: str
    clear_key: str


def public_part(clear_key: str) -> KeyId | None:
    """The public id of a well-formed key; None when the form or the checksum is wrong."""
    match = _KEY.match(clear_key)
    if match is None or _checksum(clear_key[:-7]) != match.group(3):
        return None
    return KeyId(match.group(1))


def _checksum(text: str) -> str:
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


class VirtualKeys:
    """
    The table of keys. Cold path: the door remembers what it learned here for a few seconds.

    Args:
        relay: called right after the commit of a change (`Changes.relay`).
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[sa.Connection]],
        pepper: str,
        *,
        relay: Callable[[], object],
    ) -> None:
        self._connect = connect
        self._pepper = pepper.encode()
        self._relay = relay

    def create(self, name: str) -> NewVirtualKey:
        """
        Raises:
            InvalidRequest: the name is empty or longer than 200 characters.
        """
        if not 1 <= len(name.strip()) <= 200 or not name.isprintable():
            raise InvalidRequest("name: 1 to 200 printable characters", field="name")
        key_id = KeyId("".join(secrets.choice(_ALPHABET) for _ in range(12)))
        body = f"hr_{key_id}_{secrets.token_urlsafe(32)}"
        clear_key = f"{body}_{_checksum(body)}"
        with self._connect() as connection:
            connection.execute(
                virtual_keys.insert().values(
                    key_id=key_id,
                    name=name.strip(),
                    key_hash=self._hash(clear_key),
                    pepper_version=PEPPER_VERSION,
                    created_at=sa.func.now(),
                )
            )
        return NewVirtualKey(key_id, name.strip(), clear_key)

    def authenticate(self, clear_key: str) -> VirtualKey | None:
        """
        The enabled key that this is, or None: malformed, unknown, wrong or disabled are not told apart.

        Raises:
            StoreUnavailable: could not find out (law 7: that is not a None).
        """
        key_id = public_part(clear_key)
        if key_id is None:
            return None
        c = virtual_keys.c
        query = sa.select(c.key_id, c.name, c.created_at, c.disabled_at, c.key_hash).where(c.key_id == key_id)
        with self._connect() as connection:
            row = connection.execute(query).first()
        expected = bytes(row[4]) if row else b"\x00" * 32
        matches = hmac.compare_digest(self._hash(clear_key), expected)
        if row is None or not matches or row[3] is not None:
            return None
        return VirtualKey(KeyId(row[0]), row[1], row[2], row[3])

    def exists(self, key_id: str) -> bool:
        with self._connect() as connection:
            query = sa.select(virtual_keys.c.key_id).where(virtual_keys.c.key_id == key_id)
            return connection.execute(query).first() is not None

    def list(self) -> list[VirtualKey]:
        c = virtual_keys.c
        query = sa.select(c.key_id, c.name, c.created_at, c.disabled_at).order_by(c.created_at, c.key_id)
        with self._connect() as connection:
            return [VirtualKey(KeyId(row[0]), *row[1:]) for row in connection.execute(query)]

    def disable(self, key_id: str) -> VirtualKey:
        """
        Refuse the key from now on; disabling it again changes nothing.

        Raises:
            KeyNotFound: no such key.
        """
        c = virtual_keys.c
        statement = (
            virtual_keys.update()
            .where(c.key_id == key_id)
            .values(disabled_at=sa.func.coalesce(c.disabled_at, sa.func.now()))
            .returning(c.key_id, c.name, c.created_at, c.disabled_at)
        )
        with self._connect() as connection:
            row = connection.execute(statement).first()
        if row is None:
            raise KeyNotFound(f"no key {key_id}; `headrace keys list` shows them")
        self._relay()
        return VirtualKey(KeyId(row[0]), *row[1:])

    def _hash(self, clear_key: str) -> bytes:
        return hmac.digest(self._pepper, clear_key.encode(), hashlib.sha256)
