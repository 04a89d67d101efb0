"""
What a handler gets, and what it may raise or return besides its result.

A handler is `def handle(input, ctx)` or `async def handle(input, ctx)` and returns a JSON value, `RawJson` or
`poll_again(...)`. It may run twice: say in its docstring why that is harmless.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.providers.routing import Router


class RetryableFailure(Exception):
    """
    This attempt failed; another may succeed.

    Args:
        code: a stable word for programs, e.g. `provider_unavailable`.
        retry_after: what the provider asked for; the next attempt is not earlier.
        rate_limited: use up the budget of rate limits, not of failures.
    """

    def __init__(
        self, message: str, *, code: str = "failed", retry_after: timedelta | None = None, rate_limited: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.rate_limited = rate_limited


class PermanentFailure(Exception):
    """No attempt can succeed: the task fails at once."""

    def __init__(self, message: str, *, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class HandlerStopped(BaseException):
    """Raised inside a handler by `ctx.check()` when it must end: cancelled, out of time, or the worker is stopping."""


@dataclass(frozen=True, slots=True)
class RawJson:
    """A result that is JSON text already; it is stored and shown unchanged, byte for byte."""

    text: str


@dataclass(frozen=True, slots=True)
class PollAgain:
    """Park the task without holding a slot: it is run again `after`, with `state` (JSON) in `ctx.poll_state`."""

    after: timedelta
    state: Any


def poll_again(after: timedelta, state: Any) -> PollAgain:
    """What a handler returns to wait for something outside. `state` is any JSON value."""
    return PollAgain(after, state)


class HandlerContext(ABC):
    """One run of one task. The same object is never used for two runs."""

    task_id: str
    """Public id of the task."""
    owner_id: str
    attempt: int
    deadline_at: datetime
    """When the task's total deadline passes, UTC."""
    poll_state: Any
    """What the previous `poll_again` left; None on a first run."""

    @property
    @abstractmethod
    def provider(self) -> Router:
        """All providers as one: a call goes to the one that serves its model. Shared by the process."""

    @abstractmethod
    def remaining(self) -> timedelta:
        """Time left to the deadline; never negative."""

    @abstractmethod
    def check(self) -> None:
        """Return at once, or raise HandlerStopped when this run must end. Call it between steps of sync handlers."""

    @abstractmethod
    def progress(self, percent: float | None, message: str | None = None) -> None:
        """
        Show how far the task is. Coalesced: the last one within about half a second is written.

        Args:
            percent: 0 to 100 (clamped); None: unknown.
            message: at most 500 characters are kept.
        """
