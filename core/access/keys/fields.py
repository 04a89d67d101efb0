"""What an operator may say of a virtual key: each field checked, with its name in the error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from core.errors import InvalidRequest
from core.events.access import Limits

NAME_CHARACTERS = 200
GROUP_PATTERN = r"^[A-Za-z0-9._-]{1,100}$"
MOST_PATTERNS = 200
MODEL_CHARACTERS = 200
MOST_COUNT = 2**31 - 1  # of the column
MOST_TOKENS = 10**12
MOST_OVERLAP = timedelta(days=30)
LIMIT_NAMES = ("rpm", "rpd", "tpm", "concurrency")

_GROUP = re.compile(r"[A-Za-z0-9._-]{1,100}")
_TYPE = re.compile(r"[A-Za-z0-9._-]{0,99}\*|[A-Za-z0-9._-]{1,100}")
_MODEL = re.compile(r"[^*]{0,199}\*|[^*]{1,200}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def checked_name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= NAME_CHARACTERS or not value.isprintable():
        raise InvalidRequest(f"name: 1 to {NAME_CHARACTERS} printable characters", field="name")
    return value.strip()


def checked_group(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _GROUP.fullmatch(value):
        raise InvalidRequest("group: 1 to 100 letters, digits, `.`, `_` and `-`", field="group")
    return value


def checked_expiry(value: object) -> datetime | None:
    """
    Args:
        value: an aware time in the future, or None: never.
    """
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidRequest("expires_at: a time with a zone, e.g. 2027-01-31T12:00:00Z", field="expires_at")
    if value <= datetime.now(UTC):
        raise InvalidRequest("expires_at: must be in the future; to refuse the key now, disable it", field="expires_at")
    return value


def instant_of(text: str) -> datetime:
    """`expires_at` as RFC 3339 text."""
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "expires_at: must be a time of RFC 3339 with a zone, e.g. 2027-01-31T12:00:00Z", field="expires_at"
        ) from None


def checked_types(value: object) -> list[str]:
    return _patterns(value, "allowed_types", _TYPE, "letters, digits, `.`, `_` and `-`")


def checked_models(value: object) -> list[str]:
    return _patterns(value, "allowed_models", _MODEL, f"1 to {MODEL_CHARACTERS} printable characters")


def checked_limit(name: str, value: object) -> int | None:
    """
    Args:
        name: rpm, rpd, tpm or concurrency.
        value: None: no limit.
    """
    most = MOST_TOKENS if name == "tpm" else MOST_COUNT
    if value is None:
        return None
    # A bool is an int to Python, and true is no limit of 1.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidRequest(f"{name}: a whole number from 1 to {most}, or none for no limit", field=name)
    return value


def checked_limits(limits: Limits) -> dict[str, int | None]:
    return {name: checked_limit(name, getattr(limits, name)) for name in LIMIT_NAMES}


def checked_overlap(value: timedelta) -> timedelta:
    if not timedelta() <= value <= MOST_OVERLAP:
        most = int(MOST_OVERLAP.total_seconds())
        raise InvalidRequest(f"overlap_s: 0 to {most} seconds (30 days)", field="overlap_s")
    return value


def _patterns(value: object, field: str, fits: re.Pattern[str], shape: str) -> list[str]:
    """In their order, none twice; None and an empty list: everything is allowed."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequest(f"{field}: a list of texts", field=field)
    given = cast("Sequence[object]", value)
    if len(given) > MOST_PATTERNS:
        raise InvalidRequest(f"{field}: at most {MOST_PATTERNS}", field=field)
    for place, pattern in enumerate(given):
        if not isinstance(pattern, str) or not fits.fullmatch(pattern) or not pattern.isprintable():
            at = f"{field}[{place}]"
            raise InvalidRequest(f"{at}: {shape}; a `*` may stand at the end only", field=at)
    return list(dict.fromkeys(cast("Sequence[str]", given)))
