"""
The lease of this process: it says that it lives, learns what to cancel, and learns that it was declared dead.

Through an outage of the database it goes on asking each second; the work goes on meanwhile, and no claim is made once
the last answer is older than the lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from core.connections import database_errors
from core.errors import StoreUnavailable
from core.ids import PublicId, WorkerId
from core.tasks import leases

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class HeartbeatThread:
    """
    Args:
        engine: in autocommit mode.
        on_dead: this process was declared dead; what it holds is another's already.
        on_beat: called after each answered heartbeat, with the connection.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        worker_id: WorkerId,
        every_s: float,
        lease_s: float,
        on_cancel: Callable[[PublicId], None],
        on_dead: Callable[[], None],
        on_beat: Callable[[sa.Connection], None],
    ) -> None:
        self._engine = engine
        self._worker_id = worker_id
        self._every_s = every_s
        self._lease_s = lease_s
        self._on_cancel = on_cancel
        self._on_dead = on_dead
        self._on_beat = on_beat
        self._answered_at = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Registering counts as the first heartbeat."""
        self._answered_at = time.monotonic()
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def is_fresh(self) -> bool:
        """Whether this process surely counts as alive."""
        return time.monotonic() - self._answered_at < self._lease_s

    def close(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._stopping.wait(pause_s):
            try:
                if not self._beat():
                    self._on_dead()
                    return
                pause_s = self._every_s
            except StoreUnavailable as error:
                logger.warning("%s", error)
                pause_s = min(RETRY_S, self._every_s)

    def _beat(self) -> bool:
        sent_at = time.monotonic()
        with database_errors("no heartbeat was sent"), self._engine.connect() as connection:
            beat = leases.heartbeat(connection, self._worker_id)
            if not beat.alive:
                return False
            self._answered_at = sent_at
            for public_id in beat.cancelled:
                self._on_cancel(public_id)
            self._on_beat(connection)
        return True
