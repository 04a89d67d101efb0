"""
Secrets at rest: sealed with HEADRACE_ENCRYPTION_KEY before they reach the database, opened only where they are used.

Fernet of `cryptography` (AES-128-CBC and HMAC-SHA-256, authenticated). Several keys make a rotation: the first seals,
all of them open, so an old key may go once everything was sealed anew (`headrace providers reseal`).
`python -m core.sealing` prints a new key.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from core.errors import HeadraceError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

KEY_BYTES = 32


class Unsealable(HeadraceError):
    """A secret cannot be sealed or opened: no key is set, or none of them is the one it was sealed with."""

    code = "unsealable"


class Sealing:
    """
    Args:
        keys: as the setting has them, comma separated; None: nothing can be sealed or opened.
    """

    def __init__(self, keys: str | None) -> None:
        self._keys = [key.strip() for key in (keys or "").split(",") if key.strip()]
        self._fernet: MultiFernet | None = None

    @property
    def has_key(self) -> bool:
        return bool(self._keys)

    def seal(self, text: str) -> bytes:
        """Raises: Unsealable."""
        return self._opened().encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Raises: Unsealable."""
        return self._decrypted(sealed).decode()

    def seal_anew(self, sealed: bytes) -> bytes:
        """The same secret, sealed with the first key. Raises: Unsealable."""
        return self._opened().encrypt(self._decrypted(sealed))

    def _decrypted(self, sealed: bytes) -> bytes:
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 (see _opened)

        try:
            return self._opened().decrypt(sealed)
        except InvalidToken:
            raise Unsealable(
                "it was sealed with another HEADRACE_ENCRYPTION_KEY; add that key after the present one, or set the "
                "secret again"
            ) from None

    def _opened(self) -> MultiFernet:
        if not self._keys:
            raise Unsealable(
                "HEADRACE_ENCRYPTION_KEY is not set; set it to what `python -m core.sealing` prints, on every process"
            )
        if self._fernet is None:
            # Here, because most processes never meet a sealed secret and save the megabytes.
            from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 (heavy: only when used)

            self._fernet = MultiFernet([Fernet(key) for key in self._keys])
        return self._fernet


def new_key() -> str:
    """A key as the setting takes it; the same as `cryptography.fernet.Fernet.generate_key`."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def is_key(text: str) -> bool:
    """Whether it is one key: 32 bytes in URL-safe base64."""
    try:
        return len(base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)) == KEY_BYTES
    except ValueError:
        return False


if __name__ == "__main__":
    print(new_key())  # noqa: T201 (its purpose)
