"""
The thread of a web process that does now and then what may wait for a server: limits that nobody confirmed are read
again, copies in use are written again, and leases of tasks are renewed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from core.errors import Unavailable

logger = logging.getLogger(__name__)

EVERY_S = 1.0
CLOSE_S = 2.0


class Upkeep:
    """
    Args:
        ticks: each decides for itself whether it is time.
    """

    def __init__(self, ticks: Sequence[Callable[[], object]]) -> None:
        self._ticks = tuple(ticks)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="access upkeep", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """False: it ended by a mistake of ours, and the process must end too (law 10). Not started counts as alive."""
        return self._thread is None or self._thread.is_alive()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            self._thread = None

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            for tick in self._ticks:
                try:
                    tick()
                except Unavailable as error:
                    logger.warning("upkeep of limits waits for a server", extra={"reason": type(error).__name__})
