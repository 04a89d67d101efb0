"""
The database away: 503 within two seconds, and never a 401. Redis away: everything works, within bounds.

Away is both: ended (connections are refused) and hung (connections are accepted and nothing is answered).
"""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event

import pytest

from core.app import App, open_app
from core.settings import load_settings
from tests.support.waiting import wait_until
from tests.web.frozen import ANSWER_S, OwnServers, is_answering
from tests.web.moves import claim, finish
from tests.web.serving import NOOP, Caller, Reply, Site, open_site
from web.status import SHARED_S

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="hangs servers by way of /proc")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Generator[App]:
    """On servers that no other test uses."""
    with open_app(load_settings({}, data_dir=tmp_path_factory.mktemp("outages") / "var")) as opened:
        yield opened


@pytest.fixture
def own(app: App, tmp_path: Path) -> Generator[Site]:
    wait_until(lambda: is_answering(app), 20, what="the database is back from the test before")
    with open_site(app, tmp_path / "web.log") as opened:
        yield opened


@pytest.fixture
def own_servers(app: App) -> OwnServers:
    return OwnServers(app.settings)


def away(servers: OwnServers, name: str, how: str) -> AbstractContextManager[None]:
    return servers.hung(name) if how == "hung" else servers.ended(name)


def timed(caller: Caller, method: str, path: str, **body: object) -> tuple[Reply, float]:
    began = time.monotonic()
    reply = caller.post(path, body or None) if method == "POST" else caller.get(path)
    return reply, time.monotonic() - began


@pytest.mark.parametrize("how", ["hung", "ended"])
def test_with_the_database_away_every_route_says_503_within_two_seconds(
    own: Site, own_servers: OwnServers, how: str
) -> None:
    caller = own.caller
    task_id = caller.enqueue()
    stranger = own.other()
    with away(own_servers, "postgres", how):
        for method, path, body in (
            ("POST", "/v1/tasks", NOOP),
            ("POST", "/v1/tasks/batch", {"tasks": [NOOP]}),
            ("GET", "/v1/tasks", {}),
            ("GET", f"/v1/tasks/task_{'0' * 32}", {}),
            ("GET", f"/v1/tasks/task_{'1' * 32}?wait=30", {}),
            ("POST", f"/v1/tasks/{task_id}/cancel", {}),
            ("POST", f"/v1/tasks/{task_id}/retry", {}),
        ):
            for client in (caller, stranger):
                reply, took_s = timed(client, method, path, **body)
                assert reply.status == 503, (method, path, reply)
                assert int(reply.headers["retry-after"]) >= 1
                assert took_s < ANSWER_S, (method, path, took_s)
        assert caller.get("/live").status == 200
        wait_until(lambda: timed(caller, "GET", "/ready")[0].status == 503, 2, what="it is not ready")

    wait_until(own.web.is_ready, 20, what="ready again")
    assert wait_until(lambda: caller.post("/v1/tasks", NOOP).status == 202, 10, what="it accepts again")
    assert stranger.get("/v1/tasks").status == 200
    assert "Traceback" not in own.web.text()


def test_a_crowd_does_not_wait_longer_for_a_hung_database(own: Site, own_servers: OwnServers) -> None:
    caller = own.caller
    caller.enqueue()
    with own_servers.hung("postgres"), ThreadPoolExecutor(64) as pool:
        posts = [pool.submit(timed, caller, "POST", "/v1/tasks", **NOOP) for _ in range(64)]
        gets = [pool.submit(timed, caller, "GET", f"/v1/tasks/task_{n:032x}") for n in range(400)]
        answers = [answer.result(30) for answer in posts + gets]

        assert {reply.status for reply, _ in answers} == {503}
        assert max(took for _, took in answers) < ANSWER_S + 1, max(took for _, took in answers)

    wait_until(own.web.is_ready, 20, what="ready again")
    assert wait_until(lambda: caller.post("/v1/tasks", NOOP).status == 202, 10, what="it accepts again")


def test_a_final_status_is_answered_without_the_database(own: Site, own_servers: OwnServers) -> None:
    caller = own.caller
    task_id = caller.enqueue()
    caller.post(f"/v1/tasks/{task_id}/cancel")
    assert caller.get(f"/v1/tasks/{task_id}").status == 200

    with own_servers.hung("postgres"):
        reply = caller.get(f"/v1/tasks/{task_id}")

    assert (reply.status, reply.headers["headrace-status-from"]) == (200, "memory")


@pytest.mark.parametrize("how", ["hung", "ended"])
def test_with_redis_away_all_of_it_works(own: Site, own_servers: OwnServers, app: App, how: str) -> None:
    caller = own.caller
    caller.enqueue()
    longest = 0.0
    with away(own_servers, "valkey", how):
        for _ in range(10):
            posted, took_s = timed(caller, "POST", "/v1/tasks", **NOOP)
            task_id = posted.json["id"]
            longest = max(longest, took_s)
            for _ in range(5):
                status, took_s = timed(caller, "GET", f"/v1/tasks/{task_id}")
                assert (status.status, status.json["state"]) == (200, "pending")
                longest = max(longest, took_s)
            cancelled, took_s = timed(caller, "POST", f"/v1/tasks/{task_id}/cancel")
            assert (posted.status, cancelled.status) == (202, 200)
            longest = max(longest, took_s)
            assert caller.get(f"/v1/tasks/{task_id}").json["state"] == "cancelled"
        assert caller.get("/ready").status == 200
        assert longest < 1.5, longest
        _poll_together(app, caller)

        waited = caller.enqueue()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(caller.get, f"/v1/tasks/{waited}?wait=20")
            claimed = claim(app)
            while claimed.task.public_id != waited:
                claimed = claim(app)
            finish(app, claimed)
            ended = time.monotonic()
            assert waiting.result(20).json["state"] == "completed"
        assert time.monotonic() - ended < 4

    task_id = caller.enqueue()

    def source() -> str:
        return caller.get(f"/v1/tasks/{task_id}").headers["headrace-status-from"]

    wait_until(lambda: source() == "redis", 15, what="statuses come from redis again")
    assert "Traceback" not in own.web.text()


def _poll_together(app: App, caller: Caller) -> None:
    """Without copies, a crowd at one task still shares readings of its row."""
    task_id = caller.enqueue()
    began, before = time.monotonic(), _row_reads(app)
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda _: caller.get(f"/v1/tasks/{task_id}").status, range(400)))
    took_s = time.monotonic() - began

    assert statuses == {200}
    assert 1 <= _row_reads(app) - before <= took_s / SHARED_S + 2


def _row_reads(app: App) -> int:
    query = """SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements
        WHERE query LIKE 'SELECT tasks.id%%WHERE tasks.public_id%%'"""
    with app.engine.connect() as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        connection.commit()
        return int(connection.exec_driver_sql(query).scalar_one())


def test_a_flood_of_refused_keys_keeps_nobody_out(own: Site) -> None:
    caller = own.caller.keep()
    caller.get("/v1/tasks")
    refused_keys = [own.app.keys.create("x").clear_key for _ in range(3)]
    for key in refused_keys:
        own.app.keys.disable(key[3:15])
    stop = Event()

    def flood(key: str) -> set[int]:
        stranger, seen = own.caller.with_key(key).keep(), set[int]()
        while not stop.is_set():
            seen.add(stranger.get("/v1/tasks").status)
        return seen

    with ThreadPoolExecutor(3) as pool:
        floods = [pool.submit(flood, key) for key in refused_keys]
        answers = {caller.post("/v1/tasks", NOOP).status for _ in range(200)}
        stop.set()
        refusals = set[int]().union(*(running.result(10) for running in floods))

    assert answers == {202}
    assert refusals == {401}
