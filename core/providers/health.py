"""
How well the providers are, as far as this process has seen: its own calls are the only probes.

Three failures in a row take a provider out for a second; each probe that fails doubles that, up to a minute. A probe is
one real call. Nothing here is stored or shared: another process finds out by itself, and a new one begins without
prejudice. Thread-safe.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from core.providers.errors import ProviderFailure

logger = logging.getLogger(__name__)

FAILURES = 3  # in a row: one may be chance, and a retry of the row is near
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
BUSY_S = 1.0  # a 429 that does not say for how long
LONGEST_BUSY_S = 3600.0  # a mistaken Retry-After must not turn a model away for good
PATIENCE_S = 10.0  # who gave the provider less has learned of his own deadline, not of the provider
MOST_BUSY = 1000  # callers name the models

SICK = frozenset({"provider_unavailable", "provider_malformed", "provider_auth", "provider_quota"})
"""Failures that say something about the provider. The others answer this one request; a 429 is told by `busy`."""


@dataclass(slots=True)
class _Record:
    """`pause_s` 0: not down. `probing`: somebody was let through since it went down."""

    failures: int = 0
    pause_s: float = 0.0
    down_until: float = 0.0
    probing: bool = False


class Health:
    """
    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}
        self._busy: dict[tuple[str, str | None], float] = {}

    def admits(self, provider: str, model: str | None) -> bool:
        """
        Whether to call it now. For a provider that is down this is True once a pause: the caller is its probe.

        Until the probe ends, or for another pause, everybody else is told no.
        """
        now = self._clock()
        with self._lock:
            if self._busy.get((provider, model), now) > now:
                return False
            record = self._records.get(provider)
            if record is None or not record.pause_s:
                return True
            if record.down_until > now:
                return False
            record.down_until = now + record.pause_s
            record.probing = True
            return True

    def succeeded(self, provider: str) -> None:
        """It answered; a refusal of the request is an answer too."""
        with self._lock:
            record = self._records.pop(provider, None)
        if record is not None and record.pause_s:
            logger.warning("provider is up again", extra={"provider": provider})

    def failed(self, provider: str, model: str | None, failure: ProviderFailure, *, took: timedelta) -> None:
        """A call to it ended in `failure`."""
        if failure.rate_limited:
            self._mark_busy(provider, model, failure.retry_after)
        elif failure.code in SICK or (failure.code == "provider_timeout" and took.total_seconds() >= PATIENCE_S):
            self._mark_failed(provider, failure)
        elif failure.code != "provider_timeout":
            self.succeeded(provider)

    def _mark_busy(self, provider: str, model: str | None, wait: timedelta | None) -> None:
        seconds = BUSY_S if wait is None else min(wait.total_seconds(), LONGEST_BUSY_S)
        now = self._clock()
        with self._lock:
            if len(self._busy) >= MOST_BUSY:
                self._busy = {key: until for key, until in self._busy.items() if until > now}
            if len(self._busy) < MOST_BUSY:
                self._busy[provider, model] = now + seconds

    def _mark_failed(self, provider: str, failure: ProviderFailure) -> None:
        now = self._clock()
        with self._lock:
            record = self._records.setdefault(provider, _Record())
            record.failures += 1
            if record.failures < FAILURES:
                return
            if record.pause_s and not record.probing and now < record.down_until:
                return  # late news from a call that began before, or was made because nobody was well
            record.pause_s = min(record.pause_s * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            record.down_until = now + record.pause_s
            record.probing = False
            pause_s = record.pause_s
        logger.warning("provider is down", extra={"provider": provider, "code": failure.code, "again_in_s": pause_s})
