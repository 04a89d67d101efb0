"""
The secrets mixed into the hashes of keys, each with its number: the first hashes, the others still recognise.

A hash is HMAC-SHA-256 of the clear key. A fast hash is right for 256 random bits; the pepper, which is not in the
database, keeps whoever reads the table from telling even whether a key that leaked elsewhere is one of ours.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.access.keys.text import public_part
from core.errors import Misconfigured
from core.ids import KeyId

LEAST_CHARACTERS = 32
FIRST_VERSION = 1
"""Of a pepper without a number."""

_MOST_VERSION = 32_767  # a smallint
_NUMBERED = re.compile(r"([^:]{0,8}):(.*)", re.DOTALL)
_SETTING = "HEADRACE_KEY_PEPPER"


@dataclass(frozen=True, slots=True)
class Presented:
    """What is kept of a clear key while it is looked up: its public id, and its hash under each pepper."""

    key_id: KeyId
    hashes: Mapping[int, bytes] = field(repr=False)


class Peppers:
    """
    Args:
        by_version: the current one first.
    """

    def __init__(self, by_version: Mapping[int, str]) -> None:
        self._secrets = {version: pepper.encode() for version, pepper in by_version.items()}
        self.current = next(iter(by_version))
        self._current_secret = self._secrets[self.current]

    @classmethod
    def parse(cls, text: str) -> Peppers:
        """
        From the setting: one pepper (its number is 1), or several, e.g. `2:new,1:old`.

        Raises:
            Misconfigured: says what is wrong, and repeats no pepper.
        """
        parts = [part.strip() for part in text.split(",")]
        found: dict[int, str] = {}
        for place, part in enumerate(parts, start=1):
            which = f"{_SETTING}: " + (f"pepper {place} of {len(parts)}: " if len(parts) > 1 else "")
            version, pepper = _split(part, alone=len(parts) == 1, which=which)
            if len(pepper) < LEAST_CHARACTERS:
                raise Misconfigured(f"{which}must have {LEAST_CHARACTERS} characters or more")
            if version in found:
                raise Misconfigured(
                    f"{which}number {version} is given twice (a pepper without a number is {FIRST_VERSION});"
                    " write e.g. 2:new,1:old"
                )
            found[version] = pepper
        return cls(found)

    @property
    def versions(self) -> list[int]:
        """The current one first."""
        return list(self._secrets)

    @property
    def current_secret(self) -> bytes:
        """For keys derived from it; never to be shown."""
        return self._current_secret

    def hash(self, clear_key: str) -> bytes:
        """With the current pepper; about a microsecond."""
        return hmac.digest(self._current_secret, clear_key.encode(), "sha256")

    def entry_id(self, clear_key: str) -> str:
        """The hash in hexadecimal, as caches name the key."""
        return hmac.digest(self._current_secret, clear_key.encode(), "sha256").hex()

    def present(self, clear_key: str) -> Presented | None:
        """None: it is malformed."""
        key_id = public_part(clear_key)
        if key_id is None:
            return None
        text = clear_key.encode()
        return Presented(key_id, {v: hmac.digest(s, text, "sha256") for v, s in self._secrets.items()})


def _split(part: str, *, alone: bool, which: str) -> tuple[int, str]:
    """A single pepper may have a colon in it; a single one that begins with a number and a colon is a numbered one."""
    match = _NUMBERED.fullmatch(part)
    if match is None or (alone and not match.group(1).strip().isdigit()):
        return FIRST_VERSION, part
    number = match.group(1).strip()
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= _MOST_VERSION):
        raise Misconfigured(f"{which}its number must be from 1 to {_MOST_VERSION}, e.g. 2:new,1:old")
    return int(number), match.group(2).strip()
