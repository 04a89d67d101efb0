"""
What can go wrong at a provider, and what it means for the task: pure decisions, no I/O.

Retryable: the network, timeouts, 408, 409, 425, 429 and 5xx. Permanent: everything the same request would meet again.
429 with `insufficient_quota` (and 402) is permanent: no wait within a task's deadline fills an account; the owner is
told at once and retries by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import cast

from core.errors import HeadraceError
from core.providers.filtering import Filter, word

LONGEST_RETRY_AFTER = timedelta(days=1)
"""More is taken for this: no deadline of ours is longer, and a timedelta must not overflow."""

UNCHARGED_CODES = frozenset({"provider_rate_limited", "provider_quota"})
"""Besides 5xx: what an error status can mean without work having been done, and what another provider need not meet."""
GAVE_UP_WAITING = frozenset({504, 524})
"""A front that no longer waits for the server behind it, which may finish the work, and charge it."""


class ProviderFailure(HeadraceError):
    """
    A call that gave no usable answer.

    Args:
        code: stable word for programs: `provider_unavailable`, `provider_timeout`, `provider_rate_limited`,
            `provider_conflict`, `provider_malformed` (these are retryable), `provider_rejected`, `provider_auth`,
            `provider_quota`, `provider_not_configured`, `result_too_large` (these are not).
        retry_after: what the provider asked for.
        rate_limited: the provider refused because of too many requests; it did no work.
        uncharged: it is certain that this provider did no work for the request, so another may be asked at once.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retryable: bool,
        retry_after: timedelta | None = None,
        rate_limited: bool = False,
        uncharged: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.rate_limited = rate_limited
        self.uncharged = uncharged


def not_configured(found: str = "is not set") -> ProviderFailure:
    """There is nobody to ask."""
    return ProviderFailure(
        f"HEADRACE_PROVIDER_URL {found}; set it (e.g. https://host/v1) and HEADRACE_PROVIDER_API_KEY, and start the "
        "workers again, or add a provider with `headrace providers add`",
        code="provider_not_configured",
        retryable=False,
    )


def refusal(status: int, headers: Mapping[str, str], body: object, *, filtered: Filter) -> ProviderFailure:
    """
    The failure an HTTP status means.

    Args:
        headers: of the answer, names in lower case (or a case-insensitive mapping).
        body: the answer's `error` object, or whatever came instead of it.
    """
    code, retryable, what = _meaning(status, _names(body))
    uncharged = (status >= 500 or code in UNCHARGED_CODES) and status not in GAVE_UP_WAITING
    wait = retry_after(headers) if retryable else None
    return ProviderFailure(
        f"the provider {what} ({', '.join([str(status), *_names(body)])}){_said(body, filtered)}",
        code=code,
        retryable=retryable,
        retry_after=wait,
        rate_limited=code == "provider_rate_limited",
        uncharged=uncharged,
    )


def error_inside(body: Mapping[str, object], *, filtered: Filter) -> ProviderFailure | None:
    """The failure in a 200 answer that holds `{"error": ...}` instead of a result, as some gateways send it."""
    error = body.get("error")
    if not error:
        return None
    status = _members(error).get("code")
    if isinstance(status, int) and 400 <= status <= 599:
        failure = refusal(status, {}, error, filtered=filtered)
        failure.uncharged = False  # a 200 with a body: whoever sent it may have done the work
        return failure
    return ProviderFailure(
        f"the provider answered 200 with an error{_said(error, filtered)}", code="provider_malformed", retryable=True
    )


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """`retry-after-ms`, or `retry-after` in seconds or as an HTTP date (RFC 9110 10.2.3); None when there is none."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _bounded(seconds)
    due = _date(text)
    if due is None:
        return None
    # The provider's own clock, when it says it: a difference of two of its times is right whatever our clock shows.
    now = _date(headers.get("date")) or datetime.now(UTC)
    return _bounded((due - now).total_seconds())


def _meaning(status: int, names: list[str]) -> tuple[str, bool, str]:  # noqa: PLR0911 (a table, one line a case)
    """Code, retryable, and the message's verb."""
    if status == 402 or "insufficient_quota" in names:
        return "provider_quota", False, "has no quota left for this account"
    if status == 429:
        return "provider_rate_limited", True, "limits the rate of requests"
    if status == 408:
        return "provider_timeout", True, "gave up waiting"
    if status in (409, 425):
        return "provider_conflict", True, "is busy with a conflicting request"
    if status in (401, 403):
        return "provider_auth", False, "refused our credentials; check its API key (`headrace providers test`)"
    if status >= 500 and status not in (501, 505):
        return "provider_unavailable", True, "failed"
    if 300 <= status < 400:
        return "provider_rejected", False, "redirected us elsewhere; check its URL (`headrace providers test`)"
    return "provider_rejected", False, "refused the request"


def _names(body: object) -> list[str]:
    """The provider's own `code` and `type`, when they are words: safe to show and to compare."""
    found = (word(_members(body).get(key)) for key in ("code", "type"))
    return list(dict.fromkeys(name for name in found if name is not None))


def _said(body: object, filtered: Filter) -> str:
    message = body if isinstance(body, str) else _members(body).get("message")
    text = filtered(message) if isinstance(message, str) else ""
    return f": {text}" if text else ""


def _members(body: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", body) if isinstance(body, Mapping) else {}


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bounded(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), LONGEST_RETRY_AFTER.total_seconds()))


def _date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    if moment is None:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
