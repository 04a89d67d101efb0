"""The audit log: written before an act, completed after it, without secrets, in bounded rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.access.audit import LONGEST_SUBJECT, AuditLog
from core.app import App
from core.errors import InvalidRequest


@pytest.fixture
def app(emptied: App) -> App:
    return emptied


@pytest.fixture
def audit(app: App) -> AuditLog:
    return AuditLog(app.engine)


def begin(audit: AuditLog, subject: str | None) -> None:
    audit.begin(actor="admin-key", address="203.0.113.7", action="POST /x", subject=subject)


def test_an_act_has_no_outcome_until_it_is_done(audit: AuditLog) -> None:
    id = audit.begin(actor="admin-key", address="203.0.113.7", action="POST /v1/admin/keys", subject=None)
    before = audit.page().acts[0]

    audit.end(id, "201", subject="3fKq09ZcVb1x")
    after = audit.page().acts[0]

    assert (before.outcome, before.subject) == (None, None)
    assert (after.outcome, after.subject, after.address) == ("201", "3fKq09ZcVb1x", "203.0.113.7")


def test_a_subject_that_was_known_before_stays(audit: AuditLog) -> None:
    id = audit.begin(actor="admin-key", address=None, action="DELETE /x/{id}", subject="a")

    audit.end(id, "404", subject="b")

    assert audit.page().acts[0].subject == "a"


def test_subjects_are_bounded_printable_and_without_secrets(audit: AuditLog) -> None:
    secret = "s" * 43
    for subject in ("x" * 10_000, "a\0b\nc\ud800", f"hr_3fKq09ZcVb1x_{secret}_abcdef, more"):
        begin(audit, subject)

    told = [act.subject or "" for act in audit.page().acts]

    assert told == ["hr_3fKq09ZcVb1x_... more", "a?b?c?", "x" * LONGEST_SUBJECT]


def test_pages_follow_each_other_newest_first(audit: AuditLog) -> None:
    for number in range(5):
        begin(audit, str(number))
    first = audit.page(limit=3)
    second = audit.page(limit=3, cursor=first.next_cursor)

    assert [act.subject for act in (*first.acts, *second.acts)] == ["4", "3", "2", "1", "0"]
    assert second.next_cursor is None
    with pytest.raises(InvalidRequest, match="cursor"):
        audit.page(cursor="nope")


def test_acts_are_forgotten_after_a_year(audit: AuditLog, app: App) -> None:
    begin(audit, "old")
    with app.engine.begin() as connection:
        connection.execute(sa.text("UPDATE audit_log SET at = at - :span"), {"span": timedelta(days=366)})
    begin(audit, "new")

    assert (audit.forget_old(), audit.forget_old()) == (1, 0)
    assert [act.subject for act in audit.page().acts] == ["new"]
