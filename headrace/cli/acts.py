"""What a command changes is written down before it is done, like an act by the admin API (core/access/audit.py)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from core.access.audit import COMMAND_LINE
from core.app import App
from core.connections import database_errors
from headrace.cli.output import opened


class Acted:
    """What was done, while it is done: `subject` may be set when it is known only then."""

    def __init__(self, subject: str | None) -> None:
        self.subject = subject


@contextmanager
def acted(headrace: App, action: str, subject: str | None = None) -> Generator[Acted]:
    """
    Write down that `action` is done, and afterwards whether it was.

        with opened(data_dir) as headrace, acted(headrace, "keys disable", key_id):

    Args:
        action: the words of the command, without `headrace`.
        subject: what it is done to: a name or an id, never a secret.

    Raises:
        StoreUnavailable: it could not be written down, so nothing was done.
    """
    with database_errors("the act could not be written down, so nothing was done"):
        act = headrace.access.audit.begin(actor=COMMAND_LINE, address=None, action=action, subject=subject)
    acting = Acted(subject)
    outcome = "failed"
    try:
        yield acting
        outcome = "done"
    finally:
        # Without the database the act has failed as well, and says so.
        with database_errors("it is not known whether it was done"):
            headrace.access.audit.end(act, outcome, subject=acting.subject)


@contextmanager
def acting(data_dir: Path | None, action: str, subject: str | None = None) -> Generator[App]:
    """`opened`, for a command that changes something."""
    with opened(data_dir) as headrace, acted(headrace, action, subject):
        yield headrace
