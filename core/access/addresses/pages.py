"""Cursors of lists that are ordered by a UUID: opaque to who shows them, checked when they come back."""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from core.errors import InvalidRequest


def encode_cursor(id: UUID) -> str:
    return base64.urlsafe_b64encode(id.bytes).rstrip(b"=").decode()


def decode_cursor(text: str) -> UUID:
    """Raises: InvalidRequest."""
    try:
        return UUID(bytes=base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise InvalidRequest("cursor: not one that this server made; start without it", field="cursor") from None
