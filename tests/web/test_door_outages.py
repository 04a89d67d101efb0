"""The door while a store is away: who is known comes in, nobody is refused without proof, revocations still count."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from threading import Barrier

import pytest

from core.access.changes.doors import SILENT_S
from core.app import App, open_app
from core.events.access import Limits
from core.settings import load_settings
from tests.support.waiting import wait_until
from tests.web.frozen import ANSWER_S, OwnServers, is_answering
from tests.web.serving import Caller, Site, open_site, running_web

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="hangs servers by way of /proc")
REVOKED_S = 5.0  # law 6
PARALLEL, LIMIT = 200, 50


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Generator[App]:
    """On servers that no other test uses."""
    with open_app(load_settings({}, data_dir=tmp_path_factory.mktemp("door") / "var")) as opened:
        yield opened


@pytest.fixture
def own(app: App, tmp_path: Path) -> Generator[Site]:
    wait_until(lambda: is_answering(app), 20, what="the database is back from the test before")
    with open_site(app, tmp_path / "web.log") as opened:
        yield opened


def _await_doors(app: App, count: int) -> None:
    """Until so many web processes live, those of tests before are gone, and each has counted since."""

    def looked_at() -> tuple[int, datetime, datetime]:
        query = """SELECT count(*), min(heartbeat_at), clock_timestamp() FROM doors
            WHERE heartbeat_at > clock_timestamp() - make_interval(secs => %(silent_s)s)"""
        with app.engine.connect() as connection:
            live, oldest_look, now = connection.exec_driver_sql(query, {"silent_s": SILENT_S}).one()
        return live, oldest_look, now

    wait_until(lambda: looked_at()[0] == count, 2 * SILENT_S, what="so many live")
    _, _, since = looked_at()
    wait_until(lambda: looked_at()[1] > since, 10, what="each has counted since")


@pytest.fixture
def own_servers(app: App) -> OwnServers:
    return OwnServers(app.settings)


def asked(caller: Caller) -> int:
    """The door's answer, which must not take longer than the contract says."""
    began = time.monotonic()
    status = caller.get("/v1/auth").status
    assert time.monotonic() - began < ANSWER_S, status
    return status


def answers_for(seconds: float, caller: Caller) -> set[int]:
    """All different answers of so long."""
    until = time.monotonic() + seconds
    seen: set[int] = set()
    while time.monotonic() < until:
        seen.add(asked(caller))
    return seen


@pytest.mark.parametrize("how", ["hung", "ended"])
def test_with_the_database_away_known_keys_come_in_and_unknown_ones_are_503(
    own: Site, own_servers: OwnServers, how: str
) -> None:
    known, unknown = own.caller, own.other()
    wait_until(lambda: asked(known) == 200, 5)
    wrong = known.with_key("hr_" + "a" * 12 + "_" + "b" * 43 + "_cccccc")

    with own_servers.hung("postgres") if how == "hung" else own_servers.ended("postgres"):
        # Longer than either way of hearing of changes counts: the log alone must suffice.
        assert answers_for(6.0, known.keep()) == {200}
        assert asked(unknown) == 503
        assert asked(wrong) == 401

    wait_until(own.web.is_ready, 20, what="ready again")
    wait_until(lambda: asked(unknown) == 200, 10, what="the unknown key is known")


@pytest.mark.parametrize("how", ["hung", "ended"])
def test_with_redis_away_everything_works(own: Site, own_servers: OwnServers, how: str) -> None:
    known = own.caller
    wait_until(lambda: asked(known) == 200, 5)
    with own_servers.hung("valkey") if how == "hung" else own_servers.ended("valkey"):
        assert answers_for(6.0, known.keep()) == {200}
        stranger = own.app.keys.create("made meanwhile")
        caller = known.with_key(stranger.clear_key)
        assert asked(caller) == 200
        assert asked(known.with_key(stranger.clear_key[:-1])) == 401
        caller.enqueue()

        own.app.keys.disable(stranger.key_id)
        disabled_at = time.monotonic()
        wait_until(lambda: asked(caller) == 401, 10, what="the disabled key is refused")
        assert time.monotonic() - disabled_at < REVOKED_S


def test_with_both_away_the_answer_is_503_within_two_seconds(own: Site, own_servers: OwnServers) -> None:
    known = own.caller
    wait_until(lambda: asked(known) == 200, 5)
    with own_servers.ended("valkey"), own_servers.hung("postgres"):
        wait_until(lambda: asked(known) == 503, 6, what="what is in memory does not count any more")
        assert answers_for(2.0, known) == {503}

    wait_until(lambda: asked(known) == 200, 20, what="it counts again")


def test_of_200_parallel_requests_at_a_limit_of_50_over_two_processes_exactly_50_pass(
    own: Site, tmp_path: Path
) -> None:
    with running_web(own.app.settings, tmp_path / "second.log") as second:
        for round_ in range(3):
            key = own.app.keys.create(f"burst {round_}", limits=Limits(rpm=LIMIT)).clear_key
            statuses = _burst([own.caller.with_key(key), Caller(second.url, key)])

            assert statuses.count(200) == LIMIT
            assert statuses.count(429) == PARALLEL - LIMIT


def test_with_redis_away_two_processes_share_a_limit(own: Site, own_servers: OwnServers, tmp_path: Path) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(running_web(own.app.settings, tmp_path / "second.log"))
        key = own.app.keys.create("shared", limits=Limits(rpm=LIMIT)).clear_key
        callers = [own.caller.with_key(key), Caller(second.url, key)]
        _await_doors(own.app, 2)
        stack.enter_context(own_servers.ended("valkey"))
        for caller in callers:
            assert caller.get("/v1/models").status == 200

        statuses = _burst(callers)

    # Each process counts its half of a limit that is not counted together: no more than the whole, in one window.
    assert LIMIT // 2 <= statuses.count(200) <= LIMIT
    assert statuses.count(200) + statuses.count(429) == PARALLEL


def _burst(callers: list[Caller]) -> list[int]:
    barrier = Barrier(32)

    def ask(number: int) -> int:
        if number < 32:
            barrier.wait(10)
        return callers[number % len(callers)].get("/v1/auth").status

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(ask, range(PARALLEL)))
