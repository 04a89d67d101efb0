"""The threads behind the door: one that ends by a mistake ends its process (law 10)."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from core.access.addresses.reader import Reader
from core.app import App
from core.errors import StoreUnavailable
from tests.support.waiting import wait_until


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_outage_ends_no_reader_and_a_mistake_does() -> None:
    mistakes: list[Exception] = [ValueError("a mistake of ours"), StoreUnavailable("away")]

    def read() -> None:
        raise mistakes.pop()

    reader = Reader("something", read)
    reader.start()
    assert reader.is_alive()

    wait_until(lambda: not reader.is_alive(), what="the second reading ended the thread")
    assert mistakes == []


def test_a_reader_that_was_closed_is_no_dead_one() -> None:
    reader = Reader("something", lambda: None)
    reader.start()
    reader.close()

    assert reader.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_process_whose_ip_filters_are_not_followed_any_more_is_not_alive(app: App) -> None:
    app.access.start(is_door=True)
    assert app.access.is_alive()
    with app.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM access_versions"))  # what no code of ours can make sense of

    app.access.ip_filters.hurry()

    wait_until(lambda: not app.access.is_alive(), what="the mistake is noticed")
