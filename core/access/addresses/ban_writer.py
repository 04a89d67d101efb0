"""
Writes bans to the database from a thread of its own: who failed a log-in does not wait, and an outage is waited out.

Bans that come together are one statement, so that a flood of them is a few transactions a second. What waits is
bounded; a ban that is dropped here is in Redis and in this process's memory until its first end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import exc

from core.access.addresses.ban_table import NewBan
from core.connections import OUTAGES

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
MOST_AT_ONCE = 500
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    ban: NewBan
    decided_at: float


class BanWriter:
    """
    Thread-safe; the thread starts with the first ban.

    Args:
        write: writes bans of different networks in one transaction, and tells of them.
    """

    def __init__(self, write: Callable[[Sequence[NewBan]], None]) -> None:
        self._write = write
        self._queue: deque[_Waiting] = deque(maxlen=MOST_WAITING)
        self._writing: list[_Waiting] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def put(self, ban: NewBan) -> None:
        with self._changed:
            self._queue.append(_Waiting(ban, time.monotonic()))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="bans", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def waiting(self) -> list[NewBan]:
        """Those that may have no row yet."""
        with self._changed:
            return [_aged(entry) for entry in (*self._writing, *self._queue)]

    def flush(self, timeout_s: float) -> bool:
        """Wait until all have their rows; False: not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._writing, timeout_s)

    def close(self) -> None:
        """Write what waits, for half a second at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(0.5)

    def _run(self) -> None:
        while self._take():
            is_written = self._try()
            with self._changed:
                if not is_written:
                    self._queue.extendleft(reversed(self._writing))
                self._writing = []
                self._changed.notify_all()
                if not is_written and self._changed.wait_for(lambda: self._closing, RETRY_S):
                    return

    def _take(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            several: dict[int, _Waiting] = {}
            while self._queue and len(several) < MOST_AT_ONCE:
                entry = self._queue.popleft()
                several.setdefault(entry.ban.network.number, entry)
            self._writing = list(several.values())
            return bool(self._writing)

    def _try(self) -> bool:
        bans = [_aged(entry) for entry in self._writing]
        try:
            self._write(bans)
        except OUTAGES as error:
            logger.warning(
                "bans were not written to the database; trying again",
                extra={"bans": len(bans), "reason": type(error).__name__},
            )
            return False
        except exc.SQLAlchemyError:
            # Not an outage: written again it would fail again. They stay in Redis and in memory.
            logger.exception("bans could not be written to the database", extra={"bans": len(bans)})
        return True


def _aged(entry: _Waiting) -> NewBan:
    return replace(entry.ban, ago_s=max(0.0, time.monotonic() - entry.decided_at))
