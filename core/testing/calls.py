"""One request to the fake provider, and how it can be made to go wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    How one request goes wrong; what is not set is as usual.

    Args:
        status: an error status; the body is then an error object unless `body` says otherwise.
        headers: sent besides the usual ones.
        retry_after: the Retry-After header, seconds or an HTTP date.
        body: this instead of the answer.
        delay_s: silence before the answer begins.
        trickle_s: pause before each byte of the body.
        cut_after: bytes of the body after which the connection is closed.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    retry_after: str | None = None
    body: bytes | None = None
    delay_s: float = 0.0
    trickle_s: float | None = None
    cut_after: int | None = None


@dataclass
class Call:
    """
    One request as it arrived.

    Args:
        headers: names in lower case.
        outcome: `open` until it ends as `answered`, `cut` (by a fault) or `gone` (the client closed first).
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    outcome: str = "open"
    status: int | None = None

    @property
    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.body))
