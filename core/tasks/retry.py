"""
Whether a failed attempt is tried again, and when. A pure decision; the row is the only owner of retries.

Three budgets that do not eat each other: failures (`max_attempts`), refusals by rate, crashes of the process.
Backoff is exponential with full jitter (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

BASE_S = 1.0
CAP_S = 300.0  # 5 min: longer pauses belong to run_at, not to a retry
RATE_LIMIT_BUDGET = 20  # with 5 min of cap this is beyond most deadlines, which then decide
CRASH_BUDGET = 3  # the third process it takes down is the last one
SOLO_AFTER_CRASHES = 2


class Budget(StrEnum):
    FAILURE = "failure"
    RATE_LIMIT = "rate_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    A failed attempt and what came before it.

    Args:
        failures, rate_limits: used up before this attempt.
        retry_after: what the provider asked for.
    """

    retryable: bool
    budget: Budget
    failures: int
    rate_limits: int
    max_attempts: int
    retry_after: timedelta | None
    now: datetime
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class RetryIn:
    after: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """`reason` completes the sentence "not tried again: ..."."""

    reason: str


def decide(attempt: Attempt, *, random: Callable[[], float]) -> RetryIn | GiveUp:
    """
    Args:
        random: uniform in [0, 1).
    """
    if not attempt.retryable:
        return GiveUp("another attempt cannot succeed")
    if attempt.budget is Budget.RATE_LIMIT:
        used, limit = attempt.rate_limits + 1, RATE_LIMIT_BUDGET
    else:
        used, limit = attempt.failures + 1, attempt.max_attempts
    if used >= limit:
        return GiveUp(f"{used} of {limit} attempts used")
    after = _backoff(used, random)
    if attempt.retry_after is not None:
        # Not all at the same instant: the provider named it to everybody.
        after = max(after, attempt.retry_after * (1 + 0.1 * random()))
    if attempt.now + after >= attempt.deadline_at:
        return GiveUp("the next attempt would come after the deadline")
    return RetryIn(after)


def _backoff(used: int, random: Callable[[], float]) -> timedelta:
    ceiling = min(CAP_S, BASE_S * 2 ** min(used - 1, 16))
    return timedelta(seconds=ceiling * random())
