"""The table of live web processes: they share the limits of a key while Redis is away."""

from __future__ import annotations

import os
import socket

import sqlalchemy as sa
from uuid_utils import compat

SILENT_S = 10.0  # five heartbeats: gone

_BEAT = sa.text(
    """
    INSERT INTO doors (id, host, pid, started_at, heartbeat_at)
    VALUES (:id, :host, :pid, clock_timestamp(), clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp()
    """
)
_COUNT = sa.text("SELECT count(*) FROM doors WHERE heartbeat_at > clock_timestamp() - make_interval(secs => :silent_s)")
_LEAVE = sa.text("DELETE FROM doors WHERE id = :id")
_PRUNE = sa.text("DELETE FROM doors WHERE heartbeat_at < clock_timestamp() - interval '1 minute'")


class DoorRow:
    """The row of this process. All times are the database's. Autocommit connections."""

    def __init__(self) -> None:
        self._id = compat.uuid7()

    def beat(self, connection: sa.Connection) -> None:
        connection.execute(_BEAT, {"id": self._id, "host": socket.gethostname(), "pid": os.getpid()})

    def leave(self, connection: sa.Connection) -> None:
        connection.execute(_LEAVE, {"id": self._id})


def count_live(connection: sa.Connection) -> int:
    return int(connection.execute(_COUNT, {"silent_s": SILENT_S}).scalar_one())


def prune(connection: sa.Connection) -> None:
    connection.execute(_PRUNE)
