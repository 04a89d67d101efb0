"""
The life of a scheduler process in the table of workers: what it runs is another's once it was silent for its lease.

Declared dead (stopped for too long, cut off from the database), it lets go of everything and begins a new life.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

import sqlalchemy as sa

from core.connections import autocommit, database_errors
from core.errors import StoreUnavailable
from core.ids import WorkerId, new_worker_id
from core.tasks import leases
from core.tasks.leases import WorkerRow

logger = logging.getLogger(__name__)

NAME = "headrace-scheduler"
LEASE_S = 10.0  # with a sweep and a tick, a run is another's 13 s after a kill -9
HEARTBEAT_S = 2.0


class Presence:
    """
    Args:
        on_lost: called with the old id, from the heartbeat's thread, before the new life begins; must not raise.
    """

    def __init__(self, engine: sa.Engine, *, on_lost: Callable[[WorkerId], None]) -> None:
        self._engine = autocommit(engine)
        self._on_lost = on_lost
        self._id = new_worker_id()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def id(self) -> WorkerId:
        """The holder of what is begun now."""
        return self._id

    def start(self) -> None:
        """
        Raises:
            StoreUnavailable: not registered; try again.
        """
        self._register()
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """End this life; what it still holds is free for others at once. With the database away the lease ends it."""
        self._stopping.set()
        self._thread.join(2 * HEARTBEAT_S)
        try:
            with database_errors("the end was not recorded"), self._engine.connect() as connection:
                leases.stop(connection, self._id)
        except StoreUnavailable as error:
            logger.warning("%s", error)

    def _run(self) -> None:
        while not self._stopping.wait(HEARTBEAT_S):
            try:
                self._beat()
            except StoreUnavailable:
                continue  # the tick tells of the outage; the next beat tries again

    def _beat(self) -> None:
        with database_errors("no heartbeat was sent"), self._engine.connect() as connection:
            alive = leases.heartbeat(connection, self._id).alive
        if alive:
            return
        logger.warning("declared dead; beginning anew", extra={"worker_id": str(self._id)})
        self._on_lost(self._id)
        self._id = new_worker_id()
        self._register()

    def _register(self) -> None:
        row = WorkerRow(id=self._id, name=NAME, host=socket.gethostname(), pid=os.getpid(), queues=(), lease_s=LEASE_S)
        with database_errors("the scheduler was not registered"), self._engine.connect() as connection:
            leases.register(connection, row)
