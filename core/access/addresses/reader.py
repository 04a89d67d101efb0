"""
A thread that reads something again when it is told to, and tries until it succeeds.

Who hears of a change must not wait for a database that may be away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from core.errors import Unavailable

logger = logging.getLogger(__name__)

RETRY_S = 1.0
FIRST_S = 1.0


class Reader:
    """
    Args:
        name: of what is read, for log and thread: "bans".
        read: Unavailable: it could not be read, what was known goes on.
        every_s: read again even when nobody says so; None: never.
    """

    def __init__(self, name: str, read: Callable[[], None], *, every_s: float | None = None) -> None:
        self._name = name
        self._read = read
        self._every_s = every_s
        self._changed = threading.Condition()
        self._is_due = False
        self._was_tried = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """The first reading gets a second before this returns; it goes on behind it."""
        self._is_due = True
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._was_tried, FIRST_S)

    def hurry(self) -> None:
        """Read again, soon. Returns at once."""
        with self._changed:
            self._is_due = True
            self._changed.notify_all()

    def is_alive(self) -> bool:
        """False: it ended by a mistake of ours, and what it reads grows old unnoticed. Not started counts as alive."""
        return self._thread is None or self._closing or self._thread.is_alive()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(0.5)

    def _run(self) -> None:
        failed = False
        while self._waits(failed=failed):
            failed = not self._try(was_failing=failed)
            with self._changed:
                self._was_tried = True
                self._changed.notify_all()

    def _waits(self, *, failed: bool) -> bool:
        """Until it is time to read; False: it is over."""
        with self._changed:
            if failed:
                self._changed.wait_for(lambda: self._closing, RETRY_S)
            else:
                self._changed.wait_for(lambda: self._is_due or self._closing, self._every_s)
            self._is_due = False
            return not self._closing

    def _try(self, *, was_failing: bool) -> bool:
        try:
            self._read()
        except (Unavailable, SQLAlchemyError) as error:
            if not was_failing:  # once an outage
                logger.warning("not read; what is known goes on", extra={"what": self._name, "reason": str(error)})
            return False
        return True
