"""What becomes of due times while the run before them goes on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum, auto

from core.schedules.due import MOST_FIRED
from core.schedules.model import Missed, Overlap


class Verdict(Enum):
    START = auto()
    """Nothing of this schedule goes on: now."""
    WAIT = auto()
    """After the run that goes on."""
    SKIP = auto()
    """Recorded as skipped."""


def admit(
    fire: Sequence[datetime], *, active: bool, waiting: int, overlap: Overlap, missed: Missed
) -> list[tuple[datetime, Verdict]]:
    """
    Runs of one schedule never overlap: one starts, and what the policy lets wait goes one after the other.

    A burst of missed due times (`missed: all`) waits whatever the overlap policy says: that is what it was asked for.

    Args:
        active: a run goes on.
        waiting: runs that wait already.
    """
    verdicts: list[tuple[datetime, Verdict]] = []
    is_burst = missed is Missed.ALL and len(fire) > 1
    most = MOST_FIRED if is_burst else int(overlap is Overlap.QUEUE)
    for due_at in fire:
        if not active and waiting == 0:
            active = True
            verdicts.append((due_at, Verdict.START))
        elif waiting < most:
            waiting += 1
            verdicts.append((due_at, Verdict.WAIT))
        else:
            verdicts.append((due_at, Verdict.SKIP))
    return verdicts
