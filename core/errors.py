"""
Every error a caller may see, sorted by what the caller can do about it.

`InvalidRequest`: fix it. `NotFound`: it is not there, or not yours. `Conflict`: read again.
`Unavailable`: try later. A message says what happened, with which id, and what to do next.
"""

from __future__ import annotations


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


class Misconfigured(HeadraceError):
    """The settings cannot work. The process that meets it prints the message and exits 2."""

    code = "misconfigured"
