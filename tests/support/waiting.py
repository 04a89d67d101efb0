"""Wait for a condition with a deadline: the only way tests synchronise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10.0, *, what: str = "", every: float = 0.02) -> T:
    """
    Call `condition` until it gives something true, and return that.

    Args:
        timeout: seconds until the test fails.
        what: what was awaited, for the failure's message.
        every: pause between two calls, seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or getattr(condition, '__name__', 'condition')}")
        time.sleep(every)
