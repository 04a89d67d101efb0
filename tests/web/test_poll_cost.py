"""What polling costs the database, counted by the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from core.connections import autocommit
from tests.web.moves import claim, finish
from tests.web.serving import Caller, Site

POLLS = 10_000
CLIENTS = 8

# What a web process asks every two seconds, polled or not: changes of rights, and who else lives.
ROUND_S = 2.0
ROUND = ("virtual_keys", "access_changes", "access_versions", "ip_filters", "bans", "doors", "BEGIN", "COMMIT")


class Counter:
    """Statements of this site's database by text, from pg_stat_statements."""

    def __init__(self, site: Site) -> None:
        self._engine = autocommit(site.app.engine)  # so that its own BEGIN is not among the statements
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT 1 FROM pg_extension WHERE extname = 'pg_stat_statements'")
            if found.first() is None:
                pytest.skip("this PostgreSQL has no pg_stat_statements")

    def reset(self) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_stat_statements_reset()")

    def statements(self) -> dict[str, int]:
        query = """SELECT query, sum(calls)::int FROM pg_stat_statements
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND query NOT LIKE '%%pg_stat_statements%%'
            GROUP BY 1"""
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.exec_driver_sql(query)}

    def of_polls(self) -> dict[str, int]:
        """Without those of the round."""
        found = self.statements().items()
        return {query: calls for query, calls in found if not any(word in query for word in ROUND)}


@pytest.fixture
def counter(own_site: Site) -> Counter:
    return Counter(own_site)


def poll(caller: Caller, task_id: str, request: Callable[[Caller, str], int]) -> float:
    """Poll 10,000 times over some connections; the seconds it took."""

    def run(_: int) -> set[int]:
        kept = caller.keep()
        return {request(kept, task_id) for _ in range(POLLS // CLIENTS)}

    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        assert set().union(*pool.map(run, range(CLIENTS))) == {200}
    return time.monotonic() - began


def plain(caller: Caller, task_id: str) -> int:
    return caller.get(f"/v1/tasks/{task_id}").status


def test_ten_thousand_polls_of_a_live_task_cost_at_most_two_statements_a_second(
    own_site: Site, counter: Counter
) -> None:
    task_id = own_site.caller.enqueue()
    counter.reset()

    took_s = poll(own_site.caller, task_id, plain)

    statements = counter.of_polls()
    assert 1 <= sum(statements.values()) <= 2 * took_s + 1, (statements, took_s)  # the first second has a first read


def test_ten_thousand_polls_of_a_final_task_cost_at_most_one_statement(own_site: Site, counter: Counter) -> None:
    task_id = own_site.caller.enqueue()
    own_site.caller.post(f"/v1/tasks/{task_id}/cancel")
    counter.reset()

    took_s = poll(own_site.caller, task_id, plain)

    statements = counter.statements()
    assert sum(counter.of_polls().values()) <= 1, statements
    # The key costs none: it is known until a change of it is heard. The round is the same whether anybody polls or not.
    assert sum(statements.values()) <= 1 + 8 * (took_s / ROUND_S + 1), (statements, took_s)


def test_a_crowd_at_a_task_that_nobody_has_a_copy_of_costs_one_statement(own_site: Site, counter: Counter) -> None:
    task_id = own_site.caller.enqueue()
    own_site.caller.get("/v1/tasks")
    counter.reset()

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: plain(own_site.caller, task_id), range(50)))

    assert set(answers) == {200}
    assert sum(counter.of_polls().values()) <= 2


def test_a_result_too_large_for_memory_comes_from_redis(own_site: Site, counter: Counter) -> None:
    task_id = own_site.caller.enqueue()
    result = orjson.dumps("x" * 2_000_000).decode()
    finish(own_site.app, claim(own_site.app), result_json=result)
    own_site.caller.get("/v1/tasks")
    counter.reset()

    answers = [own_site.caller.get(f"/v1/tasks/{task_id}") for _ in range(10)]

    assert {answer.headers["headrace-status-from"] for answer in answers} == {"redis"}
    assert {len(answer.json["result"]) for answer in answers} == {2_000_000}
    assert counter.of_polls() == {}
