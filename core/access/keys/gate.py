"""How many look-ups of unknown keys the database sees: a token bucket of this process, in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from core.errors import Unavailable

LOOKUPS_PER_S = 150.0
BURST = 40.0  # with the rate under 200 look-ups in any second


class Gate:
    """Thread-safe."""

    def __init__(
        self, *, per_s: float = LOOKUPS_PER_S, burst: float = BURST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()
        self._lock = threading.Lock()

    def enter(self) -> None:
        """
        Take one look-up.

        Raises:
            Unavailable: there is none for now. That is no proof against a key (law 7).
        """
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
            self._at = now
            if self._left < 1:
                raise Unavailable("too many unknown keys are being looked up; the key was not checked", retry_after_s=1)
            self._left -= 1
