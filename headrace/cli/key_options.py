"""Options that several commands of `headrace keys` take, and what they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from core.access.keys.fields import instant_of
from core.errors import InvalidRequest

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The 12 characters after `hr_` in the key.")]
Group = Annotated[str | None, typer.Option("--group", help="Keys that belong together.")]
Expires = Annotated[
    str | None,
    typer.Option("--expires", help="Refused from then on: a time (2027-01-31T12:00:00Z) or a span (90d, 12h)."),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="A task type it may use, `*` at the end for any ending; repeat it. Without: all."),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model it may use, as --type; repeat it. Without: all.")
]
Rpm = Annotated[int | None, typer.Option("--rpm", help="Requests a minute and route.")]
Rpd = Annotated[int | None, typer.Option("--rpd", help="Requests a day and route.")]
Tpm = Annotated[int | None, typer.Option("--tpm", help="Tokens a minute.")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", help="Tasks that are accepted and not final.")]


def expiry(text: str | None) -> datetime | None:
    """
    Raises:
        InvalidRequest: neither a time nor a span.
    """
    if text is None:
        return None
    seconds = _seconds(text)
    return instant_of(text) if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)


def overlap(text: str) -> timedelta:
    """
    Raises:
        InvalidRequest: not a span, e.g. `24h`, `30min` or `0`.
    """
    seconds = 0 if text.strip() == "0" else _seconds(text)
    if seconds is None:
        raise InvalidRequest("overlap: a span, e.g. 24h, 30min, 7d, or 0 for none", field="overlap")
    return timedelta(seconds=seconds)


def _seconds(text: str) -> int | None:
    """Of `90d`, `12h`, `30min`, `45s`; None: it is no span."""
    digits = text.strip().rstrip("dhmins")
    unit = text.strip()[len(digits) :]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8) or unit not in _UNITS:
        return None
    return int(digits) * _UNITS[unit]
