"""The table of live web processes: they share the limits of a key while Redis is away."""

from __future__ import annotations

import os
import socket

import sqlalchemy as sa
from uuid_utils import compat

from core.access.limits.local_limiter import Share

SILENT_S = 10.0  # five heartbeats: gone

# The first beat is not seen by the count beside it, so its own row is counted apart.
_BEAT = sa.text(
    """
    WITH beat AS (
        INSERT INTO doors (id, host, pid, started_at, heartbeat_at)
        VALUES (:id, :host, :pid, clock_timestamp(), clock_timestamp())
        ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp()
    )
    SELECT 1 + count(*), count(*) FILTER (WHERE id < :id) FROM doors
    WHERE id <> :id AND heartbeat_at > clock_timestamp() - make_interval(secs => :silent_s)
    """
)
_COUNT = sa.text("SELECT count(*) FROM doors WHERE heartbeat_at > clock_timestamp() - make_interval(secs => :silent_s)")
_LEAVE = sa.text("DELETE FROM doors WHERE id = :id")
_PRUNE = sa.text("DELETE FROM doors WHERE heartbeat_at < clock_timestamp() - interval '1 minute'")


class DoorRow:
    """The row of this process. All times are the database's. Autocommit connections."""

    def __init__(self) -> None:
        self._id = compat.uuid7()

    def beat(self, connection: sa.Connection) -> Share:
        """Say that this process lives; how many do, and its place among them."""
        values = {"id": self._id, "host": socket.gethostname(), "pid": os.getpid(), "silent_s": SILENT_S}
        processes, place = connection.execute(_BEAT, values).one()
        return Share(processes, place)

    def leave(self, connection: sa.Connection) -> None:
        connection.execute(_LEAVE, {"id": self._id})


def count_live(connection: sa.Connection) -> int:
    return int(connection.execute(_COUNT, {"silent_s": SILENT_S}).scalar_one())


def prune(connection: sa.Connection) -> None:
    connection.execute(_PRUNE)
