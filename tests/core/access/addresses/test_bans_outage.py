"""Bans with the database away, and with both stores away."""

from __future__ import annotations

import time
from collections.abc import Generator

import pytest

from core.access.addresses.bans import Bans
from core.app import App
from core.connections import connect_database
from core.errors import StoreUnavailable
from tests.core.access.clients import bans_of, client, fail, rows
from tests.core.access.gate import Gate, gate_to
from tests.support.waiting import wait_until

GUESSER = "203.0.113.7"
NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@pytest.fixture
def app(emptied: App) -> App:
    return emptied


@pytest.fixture
def gate(app: App) -> Generator[Gate]:
    assert app.settings.database_url is not None
    with gate_to(app.settings.database_url.get_secret_value()) as made:
        yield made


@pytest.fixture
def bans(app: App, gate: Gate) -> Generator[Bans]:
    engine = connect_database(gate.url)
    with bans_of(app.settings, engine) as made:
        made.reload()
        yield made
    engine.dispose()


@pytest.fixture
def other(app: App) -> Generator[Bans]:
    with bans_of(app.settings, app.engine) as made:
        made.reload()
        yield made


def test_with_the_database_away_a_ban_is_in_redis_and_memory_and_its_row_is_written_later(
    bans: Bans, other: Bans, gate: Gate, app: App
) -> None:
    gate.shut()

    ban = fail(bans, GUESSER, 10)

    assert ban is not None
    assert not bans.flush(0.2)
    assert rows(app.engine) == {}
    assert fail(other, GUESSER) is not None  # by Redis alone
    gate.open()
    assert bans.flush(10)
    assert rows(app.engine)["203.0.113.7/32"]["failures"] == 10
    assert bans.is_banned(client(GUESSER)) is not None


def test_a_failure_does_not_wait_for_a_database_that_is_away(bans: Bans, gate: Gate) -> None:
    gate.shut()
    began = time.monotonic()

    fail(bans, GUESSER, 10)

    assert time.monotonic() - began < 1


def test_what_could_not_be_written_survives_a_reload(bans: Bans, gate: Gate) -> None:
    gate.shut()
    fail(bans, GUESSER, 10)
    with pytest.raises(StoreUnavailable):
        bans.reload()
    assert bans.is_banned(client(GUESSER)) is not None

    gate.open()
    bans.reload()

    assert bans.is_banned(client(GUESSER)) is not None


def test_with_both_away_bans_hold_in_the_process(app: App, gate: Gate) -> None:
    engine = connect_database(gate.url)
    with bans_of(app.settings, engine, redis_url=NOBODY_LISTENS) as alone:
        alone.reload()
        gate.shut()

        assert fail(alone, GUESSER, 9) is None
        assert fail(alone, GUESSER) is not None

        assert alone.is_banned(client(GUESSER)) is not None
        gate.open()
        assert alone.flush(10)
    engine.dispose()
    assert list(rows(app.engine)) == ["203.0.113.7/32"]


def test_a_ban_that_redis_has_is_believed_while_the_database_is_away(
    bans: Bans, other: Bans, gate: Gate, app: App
) -> None:
    fail(other, GUESSER, 10)
    other.flush()
    gate.shut()

    assert fail(bans, GUESSER) is not None


def test_a_process_that_starts_without_the_database_reads_the_bans_when_it_is_back(
    other: Bans, gate: Gate, app: App
) -> None:
    fail(other, GUESSER, 10)
    other.flush()
    gate.shut()
    engine = connect_database(gate.url)
    with bans_of(app.settings, engine) as fresh:
        fresh.start()
        assert fresh.is_banned(client(GUESSER)) is None

        gate.open()

        wait_until(lambda: fresh.is_banned(client(GUESSER)), what="the ban is known")
    engine.dispose()
