"""
How many tasks one claim may take: more than one only while tasks of the queue are so short that claiming dominates.

A pure rule on a moving average. What is claimed together is 50 ms of work and 16 tasks at most, so a task never waits
long behind another; calls to a provider take longer than that and so are always claimed one by one.
"""

from __future__ import annotations

WORK_S = 0.05
MOST = 16
_WEIGHT = 0.2  # of the newest duration: about the last ten tasks count


class Pace:
    """Of one queue in this process. Its threads share it without a lock: a lost update moves an average a little."""

    def __init__(self) -> None:
        self._average_s = 0.0
        self._trust = 1  # doubled with each short task in a row: one of them proves little

    def limit(self) -> int:
        """Tasks to ask for now."""
        if self._average_s * MOST <= WORK_S:
            return self._trust
        return max(1, min(self._trust, int(WORK_S / self._average_s)))

    def note(self, took_s: float) -> None:
        """A task of the queue took so long."""
        self._trust = 1 if took_s > WORK_S else min(MOST, self._trust * 2)
        self._average_s += _WEIGHT * (took_s - self._average_s)
