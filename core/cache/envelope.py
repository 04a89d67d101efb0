"""
An entry as it stands in Redis, and how a forged one is told from ours.

    {"version":3,"value":{...}}
    {"version":3,"epoch":"..","mac":"..","value":{...}}     where entries grant rights
    {"version":4,"tombstone":true}                          answers nobody, keeps older versions out
    {"version":0,"tombstone":true,"drop":".."}              the same of a drop that knew no version

The version stands first, so that scripts find it without parsing the value. The MAC binds a value to its cache, id,
version and epoch: it cannot be moved to another key, nor be brought back after a restart of Redis.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

_SPLIT = b',"value":'
_HEAD_BYTES = 400
_NUMBERED = re.compile(r"\d+:")
_PURPOSE = b"headrace: entries of caches, 1"


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry taken apart; nothing about it is proved yet."""

    version: int
    epoch: str | None
    mac: str | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Tombstone:
    """
    Args:
        drop: which drop left it; empty: a change of a row.
    """

    version: int
    drop: str


class Corrupt(Exception):
    """Not an entry of ours: unreadable, forged, or of another epoch."""


class OldEpoch(Corrupt):
    """It was ours once."""


def mac_keys(pepper: str) -> tuple[bytes, ...]:
    """
    Keys of the MAC from the setting `KEY_PEPPER`; the first makes MACs, any proves one.

    Args:
        pepper: `secret`, or several while it is rotated: `2:new,1:old`.
    """
    secrets = [_NUMBERED.sub("", part.strip(), count=1) for part in pepper.split(",")]
    return tuple(hmac.digest(secret.encode(), _PURPOSE, "sha256") for secret in secrets)


class Envelope:
    """
    Args:
        name: of the cache.
        keys: of `mac_keys`; empty: entries of this cache grant nothing and carry no MAC.
    """

    def __init__(self, name: str, keys: Sequence[bytes]) -> None:
        self._name = name.encode()
        self._keys = tuple(keys)

    def seal(self, id: str, version: int, value: bytes, epoch: str | None) -> bytes:
        if not self._keys:
            return b'{"version":%d,"value":%s}' % (version, value)
        if epoch is None:
            raise ValueError("an entry that grants rights needs the epoch of the change log")
        mac = self._mac(self._keys[0], id, version, epoch, value)
        return b'{"version":%d,"epoch":%s,"mac":"%s","value":%s}' % (
            version,
            orjson.dumps(epoch),
            mac.encode(),
            value,
        )

    def open(self, id: str, text: bytes, epoch: str | None) -> tuple[int, bytes] | Tombstone:
        """
        (version, value) of an entry that is ours, or a tombstone.

        Raises:
            Corrupt: neither.
            OldEpoch: of another epoch than `epoch`.
        """
        found = take_apart(text)
        if isinstance(found, Tombstone) or not self._keys:
            return found if isinstance(found, Tombstone) else (found.version, found.value)
        if found.epoch is None or found.mac is None:
            raise Corrupt("no MAC")
        made = [self._mac(key, id, found.version, found.epoch, found.value) for key in self._keys]
        if not any(hmac.compare_digest(mac.encode(), found.mac.encode()) for mac in made):
            raise Corrupt("not made here")
        if found.epoch != epoch:
            raise OldEpoch(found.epoch)
        return found.version, found.value

    def _mac(self, key: bytes, id: str, version: int, epoch: str, value: bytes) -> str:
        # Each part with its length: no two different entries make the same text.
        parts = (self._name, id.encode(), b"%d" % version, epoch.encode(), value)
        return hmac.new(key, b"".join(b"%d:%s" % (len(part), part) for part in parts), hashlib.sha256).hexdigest()


def take_apart(text: bytes) -> Sealed | Tombstone:
    """
    Raises:
        Corrupt: it has not the form of an entry.
    """
    cut = text.find(_SPLIT, 0, _HEAD_BYTES)
    try:
        if cut < 0:
            head = orjson.loads(text)
            if head["tombstone"] is not True:
                raise Corrupt("no value")
            return Tombstone(_whole(head["version"]), str(head.get("drop", "")))
        if not text.endswith(b"}"):
            raise Corrupt("cut off")
        head = orjson.loads(text[:cut] + b"}")
        epoch, mac = head.get("epoch"), head.get("mac")
        return Sealed(
            _whole(head["version"]),
            epoch if isinstance(epoch, str) else None,
            mac if isinstance(mac, str) else None,
            text[cut + len(_SPLIT) : -1],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt("unreadable") from error


def _whole(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError("a version is a whole number")
    return number
