"""
How late changes of rights are heard: the age of canaries, which take the same way.

Redis time at reading minus Redis time at appending, so no clock of a host is in it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

_KEPT = 300  # at about one a second: the last five minutes


@dataclass(frozen=True, slots=True)
class LagReport:
    """Of the last five minutes, seconds; no canary heard: count 0 and the rest nan."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


class Lags:
    """Thread-safe; the newest `_KEPT`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lags: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def add(self, lag_s: float, *, now: float) -> None:
        with self._lock:
            self._lags.append((now, lag_s))

    def report(self, *, now: float) -> LagReport:
        with self._lock:
            lags = sorted(lag for at, lag in self._lags if now - at <= _KEPT)
        if not lags:
            return LagReport(0, math.nan, math.nan, math.nan)
        return LagReport(len(lags), _percentile(lags, 0.5), _percentile(lags, 0.99), lags[-1])


def _percentile(ordered: list[float], share: float) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
