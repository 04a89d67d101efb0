"""
What operators did: one row an act, written before it is done and completed with its outcome.

An act that cannot be written down is not done. A row without outcome: the process died meanwhile, or the outcome could
not be written; the act may have been done. No secret is in it: subjects are names and ids, and a clear key that
somebody put into a path is cut to its public part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from core.access.addresses.pages import decode_cursor, encode_cursor
from core.access.tables import audit_log
from core.connections import autocommit
from core.ids import new_task_id

ADMIN_KEY = "admin-key"
COMMAND_LINE = "command-line"
LONGEST_SUBJECT = 200
KEPT_DAYS = 365
_CLEAR_KEY = re.compile(r"hr_([A-Za-z0-9]{12})_\S*")

c = audit_log.c


@dataclass(frozen=True, slots=True)
class Act:
    """
    Args:
        actor: `admin-key` or `command-line`.
        address: of the client; None: the command line.
        action: `DELETE /v1/admin/bans/{ip}`, or `bans lift`.
        subject: what it was done to; None: a list as a whole, or nothing that has a name.
        outcome: an HTTP status, or done / failed; None: not known.
    """

    id: UUID
    at: datetime
    actor: str
    address: str | None
    action: str
    subject: str | None
    outcome: str | None

    def to_document(self) -> dict[str, object]:
        return {
            "id": str(self.id),
            "at": self.at,
            "actor": self.actor,
            "address": self.address,
            "action": self.action,
            "subject": self.subject,
            "outcome": self.outcome,
        }


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Newest first; `next_cursor` is None on the last page."""

    acts: list[Act]
    next_cursor: str | None


class AuditLog:
    """Thread-safe. Callers turn an outage of the database into StoreUnavailable (`database_errors`)."""

    def __init__(self, engine: sa.Engine) -> None:
        self._direct = autocommit(engine)

    def begin(self, *, actor: str, address: str | None, action: str, subject: str | None) -> UUID:
        """Before the act."""
        id = new_task_id()
        values = {
            "id": id,
            "at": sa.func.now(),
            "actor": actor,
            "address": address,
            "action": action,
            "subject": _told(subject),
        }
        with self._direct.connect() as connection:
            connection.execute(audit_log.insert().values(values))
        return id

    def end(self, id: UUID, outcome: str, *, subject: str | None = None) -> None:
        """
        After it.

        Args:
            subject: known only now, e.g. the id of what was made; it does not replace one that was known before.
        """
        values = {"outcome": outcome, "subject": sa.func.coalesce(c.subject, _told(subject))}
        with self._direct.connect() as connection:
            connection.execute(audit_log.update().where(c.id == id).values(values))

    def page(self, *, limit: int = 50, cursor: str | None = None) -> AuditPage:
        """
        Raises:
            InvalidRequest: a cursor that is not ours.
        """
        query = sa.select(c.id, c.at, c.actor, c.address, c.action, c.subject, c.outcome).order_by(c.id.desc())
        if cursor is not None:
            query = query.where(c.id < decode_cursor(cursor))
        with self._direct.connect() as connection:
            found = [Act(*row) for row in connection.execute(query.limit(limit + 1))]
        return AuditPage(found[:limit], encode_cursor(found[limit - 1].id) if len(found) > limit else None)

    def forget_old(self, limit: int = 500) -> int:
        """Delete acts of more than a year ago; how many. Called until it says 0."""
        # By id, which is in the order of time: there is no index on the time itself.
        oldest = sa.select(c.id, c.at).order_by(c.id).limit(limit).subquery()
        old = sa.select(oldest.c.id).where(oldest.c.at < sa.func.now() - sa.text(f"interval '{KEPT_DAYS} days'"))
        with self._direct.connect() as connection:
            return connection.execute(audit_log.delete().where(c.id.in_(old))).rowcount


def _told(subject: str | None) -> str | None:
    """Bounded, printable, and without the secret part of a key."""
    if subject is None:
        return None
    text = _CLEAR_KEY.sub(r"hr_\1_...", subject)
    return "".join(mark if mark.isprintable() else "?" for mark in text)[:LONGEST_SUBJECT]
