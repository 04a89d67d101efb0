"""
Every error a caller may see, sorted by what the caller can do about it.

`InvalidRequest`: fix it. `NotFound`: it is not there, or not yours. `Conflict`: read again.
`RateLimited`: wait. `Unavailable`: try later. A message says what happened, with which id, and what to do next.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.access.limits.model import Decision


class HeadraceError(Exception):
    """The root. `code` is a stable word for programs; the message is for people."""

    code = "headrace_error"


class InvalidRequest(HeadraceError):
    """
    The request can never succeed as it is.

    Args:
        field: dotted path of the offending field, e.g. `input.messages[0].role`; None when there is no single one.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownQueue(InvalidRequest):
    code = "unknown_queue"


class UnknownTaskType(InvalidRequest):
    code = "unknown_task_type"


class NotAllowed(InvalidRequest):
    """The virtual key may not have that, or nothing any more. Over HTTP it is 403."""

    code = "not_allowed"


class TypeNotAllowed(NotAllowed):
    """`allowed_types` of the key does not name the task's type."""

    code = "type_not_allowed"


class ModelNotAllowed(NotAllowed):
    """`allowed_models` of the key does not name the model."""

    code = "model_not_allowed"


class KeyRefused(NotAllowed):
    """On behalf of a key that is disabled or has expired nothing new is begun."""

    code = "key_refused"


class NotFound(HeadraceError):
    code = "not_found"


class TaskNotFound(NotFound):
    """No such task, or it belongs to somebody else: the two are never told apart (law 11)."""

    code = "task_not_found"


class KeyNotFound(NotFound):
    code = "key_not_found"


class ProviderNotFound(NotFound):
    code = "provider_not_found"


class ScheduleNotFound(NotFound):
    code = "schedule_not_found"


class CacheNotFound(NotFound):
    code = "cache_not_found"


class Conflict(HeadraceError):
    code = "conflict"


class KeyChanged(Conflict):
    """Somebody changed the key since it was read: read it again."""

    code = "key_changed"


class ScheduleExists(Conflict):
    """Another schedule has that name. `field` is what to change."""

    code = "schedule_exists"
    field = "name"


class ScheduleChanged(Conflict):
    """Somebody changed it since it was read, or it cannot be changed that way: read it again."""

    code = "schedule_changed"


class ProviderExists(Conflict):
    """The name is taken; update that provider, or choose another name."""

    code = "provider_exists"


class ProviderOfSettings(Conflict):
    """It comes from HEADRACE_PROVIDER_URL and has no row to change."""

    code = "provider_of_settings"


class TaskIsFinal(Conflict):
    """A final state cannot be left."""

    code = "task_is_final"


class TaskNotRetryable(Conflict):
    """Only a task that failed, was cancelled or timed out can be retried."""

    code = "task_not_retryable"


class IdempotencyMismatch(Conflict):
    """The idempotency key was used for another body in the last 24 h."""

    code = "idempotency_mismatch"


class Unavailable(HeadraceError):
    """
    The truth could not be read or written in time; nothing that was acknowledged is lost.

    Args:
        retry_after_s: when it makes sense to try again, seconds.
    """

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(Unavailable):
    """PostgreSQL did not answer in time. An accept may or may not have been committed: send it again with its key."""

    code = "store_unavailable"


class LimitsUnavailable(Unavailable):
    """Redis is away, and the settings want no request that has a limit to pass without it."""

    code = "limits_unavailable"


class LimitTooSmall(InvalidRequest):
    """The request costs more than a whole limit: it can never pass as it is."""

    code = "over_limit"


class RateLimited(HeadraceError):
    """
    A limit is reached; nothing was counted for the refused request.

    Args:
        decision: with the figures of all the limits that were asked.
        rule: which limit: rpm, rpd, ip, tpm or concurrency.
        reset_at: when the rule's window ends, or its bucket is full again.
        retry_after_s: when the same request passes if nothing else comes between.
    """

    code = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        decision: Decision,
        rule: str,
        limit: int,
        remaining: int,
        reset_at: datetime,
        retry_after_s: int,
    ) -> None:
        super().__init__(message)
        self.decision = decision
        self.rule = rule
        self.limit = limit
        self.remaining = remaining
        self.reset_at = reset_at
        self.retry_after_s = retry_after_s


class Misconfigured(HeadraceError):
    """The settings cannot work. The process that meets it prints the message and exits 2."""

    code = "misconfigured"
