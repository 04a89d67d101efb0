"""
Who may operate: the one admin key of this deployment, compared in constant time.

A virtual key is not an admin key, whoever holds it. Nothing is looked up, so nothing can be away: the answer is proof.
"""

from __future__ import annotations

import hashlib
import hmac

from web.problems import Forbidden, Unauthenticated

_BEARER = b"bearer "
_LONGEST_KEY = 1000


class AdminDoor:
    """
    Args:
        admin_key: None: nobody may enter until it is set.
    """

    def __init__(self, admin_key: str | None) -> None:
        # The clear key is not kept: what is compared are hashes, all of one length.
        self._digest = hashlib.sha256(admin_key.encode()).digest() if admin_key else None

    def enter(self, authorization: bytes | None) -> None:
        """
        Returns when the key is right.

        Args:
            authorization: the header's value.

        Raises:
            Forbidden: no admin key is set; the message says what to set.
            Unauthenticated: no key, or not this one.
        """
        if self._digest is None:
            raise Forbidden(
                "the admin API is closed: set HEADRACE_ADMIN_KEY for the web process and start it again",
                code="admin_key_not_set",
            )
        if authorization is None or authorization[:7].lower() != _BEARER or len(authorization) > _LONGEST_KEY:
            raise _refused()
        # Bytes as they came: a key that is not ASCII travels as UTF-8 or not at all.
        shown = hashlib.sha256(authorization[7:].strip()).digest()
        if not hmac.compare_digest(shown, self._digest):
            raise _refused()


def _refused() -> Unauthenticated:
    return Unauthenticated("send the admin key as `Authorization: Bearer $HEADRACE_ADMIN_KEY`")
