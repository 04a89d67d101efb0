"""
When a request must be answered: all it waits for together, not each step by itself, has to fit in two seconds.

The time is kept beside the request, in its context: `Landing` gives each step no more than what is left.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

ANSWER_S = 1.8  # the API promises an answer within two seconds

_ends_at: ContextVar[float] = ContextVar("headrace_web_deadline", default=float("inf"))


def begin() -> None:
    """From now on `ANSWER_S`: at the start of a request, and of each look of one that waits on purpose."""
    _ends_at.set(time.monotonic() + ANSWER_S)


def forgive(seconds: float) -> None:
    """Time that the client took, e.g. to send its body, does not count."""
    _ends_at.set(_ends_at.get() + seconds)


def left_s() -> float:
    """Seconds; 0 when it is over, infinite outside of requests."""
    return max(0.0, _ends_at.get() - time.monotonic())
