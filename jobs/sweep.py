"""
The sweep of a scheduler process: the same as in every worker supervisor, so that due tasks wake with no worker on this
host and the tasks of dead ones return. An advisory lock lets one process at a time do it. Behind it the leases of
concurrent tasks are renewed, by one process at a time as well.
"""

from __future__ import annotations

import logging
import time

from core.access.limits.renewal import ConcurrencyRenewal
from core.errors import StoreUnavailable
from core.tasks.sweeper import Sweeper

logger = logging.getLogger(__name__)

EVERY_S = 1.0
STALLED_S = 60.0  # several times the longest statement: a round that takes longer will not end


class Sweeping:
    """One sweep a call; remembers when the last one ended, so that a clock that stopped is noticed."""

    def __init__(self, sweeper: Sweeper, renewal: ConcurrencyRenewal) -> None:
        self._sweeper = sweeper
        self._renewal = renewal
        self._ended_at = time.monotonic()
        self._away = False

    def __call__(self) -> None:
        """Sweep; an outage of the database is logged once, and the next call tries again."""
        try:
            self._sweeper.sweep()
            self._renewal.tick()
        except StoreUnavailable as error:
            if not self._away:
                logger.warning("the database is away: %s", error)
            self._away = True
        else:
            if self._away:
                logger.info("the database is back")
            self._away = False
        self._ended_at = time.monotonic()

    def has_stalled(self) -> bool:
        return time.monotonic() - self._ended_at > STALLED_S
