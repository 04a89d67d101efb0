"""What a refused decision is to the caller: an error with the figures the decision went by."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from core.access.limits.limiter import UNAVAILABLE
from core.access.limits.model import Decision
from core.errors import HeadraceError, LimitsUnavailable, LimitTooSmall, RateLimited

_WHAT = {
    "rpm": "requests a minute of this key to this route",
    "rpd": "requests a day of this key to this route",
    "ip": "requests a minute of this address to this route",
    "tpm": "tokens a minute of this key",
    "concurrency": "tasks at a time of this key",
}


def refusal_of(decision: Decision) -> HeadraceError:
    """
    The error of a decision that is not allowed.

    `RateLimited`: wait. `LimitTooSmall`: waiting does not help. `LimitsUnavailable`: nobody can count now.
    """
    state = decision.refused
    if decision.refused_by == UNAVAILABLE or state is None:
        return LimitsUnavailable(
            "limits cannot be counted now; try again soon", retry_after_s=max(1, decision.retry_after_s)
        )
    what = _WHAT.get(state.name, state.name)
    if not decision.can_succeed:
        return LimitTooSmall(f"the request costs more than the whole limit of {what}; make it smaller")
    return RateLimited(
        f"the limit of {state.limit} {what} is reached; try again in {decision.retry_after_s} s",
        decision=decision,
        rule=state.name,
        limit=state.limit,
        remaining=state.remaining,
        # Without a window, as for concurrency, there is only the time to ask again.
        reset_at=datetime.fromtimestamp(math.ceil(decision.at + (state.reset_s or decision.retry_after_s)), UTC),
        retry_after_s=decision.retry_after_s,
    )
