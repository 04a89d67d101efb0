"""
The text of a virtual key: `hr_` + 12 characters public id + `_` + 43 characters secret + `_` + 6 characters checksum.

The checksum refuses a mistyped key, and most invented ones, without asking anybody; scanners for leaked secrets can
recognise it. It proves nothing: the hash does (core/access/keys/peppers.py).
"""

from __future__ import annotations

import re
import secrets
import string
import zlib

from core.ids import KeyId

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(r"hr_([A-Za-z0-9]{12})_([A-Za-z0-9_-]{43})_([A-Za-z0-9]{6})")
_KEY_ID = re.compile(r"[A-Za-z0-9]{12}")


def new_key_id() -> KeyId:
    return KeyId("".join(secrets.choice(_ALPHABET) for _ in range(12)))


def new_clear_key(key_id: KeyId) -> str:
    """A clear key with a new secret of 256 random bits."""
    body = f"hr_{key_id}_{secrets.token_urlsafe(32)}"
    return f"{body}_{_checksum(body)}"


def public_part(clear_key: str) -> KeyId | None:
    """The public id of a well-formed key; None when the form or the checksum is wrong."""
    match = _KEY.fullmatch(clear_key)
    if match is None or _checksum(clear_key[:-7]) != match.group(3):
        return None
    return KeyId(match.group(1))


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def _checksum(text: str) -> str:
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
