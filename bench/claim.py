"""
Whether a claim stays as cheap when the table is full: of finished tasks, of a backlog, of tasks for the future.

The same durable claim, in turn on an empty table and on the three full ones, through `core.tasks.store.claim`.
Each table has seen traffic since the last checkpoint, as a table in use has: right after one, PostgreSQL logs a whole
page at the first change of each, and a claim in a large table would pay for that and for nothing else.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from bench.figures import Report, percentile
from bench.size import Size
from bench.system import PAYLOAD, Servers, connect, noop_type
from core.connections import autocommit, connect_database
from core.ids import new_worker_id
from core.settings import Settings
from core.tasks.model import DEFAULT_QUEUE
from core.tasks.store import claim
from headrace import open_app

BATCH = 8  # as many as a worker process has threads
TYPE = "diagnostic.noop"
FILLER = "filler"  # owner of the rows that fill a table
WARM_UP = 20
EMPTIED_EVERY = 25
TRAFFIC = 20_000  # a million ids fill about 9,000 leaf pages


def _fill(rows: int, *, state: str, ready: bool, run_at: str = "now()") -> str:
    """One statement that puts `rows` tasks into the table, of one owner like those handed in during the run."""
    final = state == "completed"
    ended = "now()" if final else "NULL"
    return f"""
        INSERT INTO tasks (id, public_id, owner_id, type, queue, priority, max_attempts, input, metadata, created_at,
            deadline_s, deadline_at, state, version, changed_at, rank, ready, solo, run_at, attempt, failures,
            rate_limits, crashes, started_at, finished_at, result)
        SELECT uuidv7(), 'task_' || md5(n::text), '{FILLER}', '{TYPE}', 'default', 5, 3,
            '{{"payload":"{PAYLOAD}"}}', '{{}}', now(), 2592000, now() + interval '30 days', '{state}',
            {3 if final else 1}, now(), n, {ready}, false, {run_at}, {int(final)}, 0, 0, 0, {ended}, {ended},
            {"'null'" if final else "NULL"}
        FROM generate_series(1, {rows}) AS n
    """


@dataclass(slots=True)
class Table:
    """One database with one kind of rows in it; `times` in milliseconds."""

    name: str
    settings: Settings
    times: list[float]


def expect(report: Report) -> None:
    for name in ("finished", "pending", "future"):
        report.expect(f"claim_{name}_vs_empty", "<=", 1.2)


def run(servers: Servers, size: Size, report: Report) -> None:
    tables = [
        _table(servers, "empty", None),
        _table(servers, "finished", _fill(size.deep_rows, state="completed", ready=False)),
        _table(servers, "pending", _fill(size.deep_rows, state="pending", ready=True)),
        _table(
            servers,
            "future",
            _fill(size.future_rows, state="pending", ready=False, run_at="now() + interval '1 day'"),
        ),
    ]
    for table in tables:
        _traffic(table.settings)
    _measure(tables, size.claims)
    for table in tables:
        report.add(f"claim_{table.name}_p50_ms", percentile(table.times, 0.5))
        if table.name != "empty":
            report.add_ratio(f"claim_{table.name}_vs_empty", f"claim_{table.name}_p50_ms", "claim_empty_p50_ms")
        servers.fresh_database(f"bench_claim_{table.name}")  # gives the disk back


def _table(servers: Servers, name: str, fill: str | None) -> Table:
    settings = servers.fresh(f"bench_claim_{name}")
    with connect(settings) as connection:
        if fill:
            connection.execute(fill.encode())
        connection.execute("CHECKPOINT")
    return Table(name, settings, [])


def _traffic(settings: Settings) -> None:
    """Tasks come and go, enough of them to change almost every page of the indexes once; none of them stays."""
    noop = noop_type()
    with open_app(settings) as app, connect(settings) as connection:
        owner = app.keys.create(name="bench").key_id
        for _ in range(TRAFFIC // 5_000):
            app.tasks.enqueue_many([noop.model_validate({"payload": PAYLOAD}) for _ in range(5_000)], owner=owner)
        connection.execute("DELETE FROM tasks WHERE owner_id <> %s", [FILLER])
        connection.execute("VACUUM ANALYZE tasks")


def _measure(tables: list[Table], claims: int) -> None:
    """Each turn hands 8 tasks in and takes 8 out of every table, in a changing order; only the taking is timed."""
    with ExitStack() as stack:
        sides = [_Side(table, stack) for table in tables]
        for turn in range(claims + WARM_UP):
            if turn % EMPTIED_EVERY == 0:
                sides[0].empty()
            first = turn % len(sides)
            for side in sides[first:] + sides[:first]:
                took_ms = side.hand_in_and_claim()
                if turn >= WARM_UP:
                    side.table.times.append(took_ms)


class _Side:
    """A table with what is open on it."""

    def __init__(self, table: Table, stack: ExitStack) -> None:
        self.table = table
        self._app = stack.enter_context(open_app(table.settings))
        self._owner = self._app.keys.create(name="bench").key_id
        self._worker = new_worker_id()
        self._inputs = [noop_type().model_validate({"payload": PAYLOAD}) for _ in range(BATCH)]
        url = table.settings.database_url
        assert url is not None
        engine = connect_database(url.get_secret_value(), pool_size=1)
        stack.callback(engine.dispose)
        self._connection = stack.enter_context(autocommit(engine).connect())

    def empty(self) -> None:
        """Truly empty again: what earlier claims left behind would make the table that all are held against slower."""
        self._connection.exec_driver_sql("DELETE FROM tasks")
        self._connection.exec_driver_sql("VACUUM ANALYZE tasks")

    def hand_in_and_claim(self) -> float:
        self._app.tasks.enqueue_many(self._inputs, owner=self._owner)
        started = time.perf_counter()
        taken = claim(self._connection, DEFAULT_QUEUE, [TYPE], limit=BATCH, worker=self._worker)
        took_ms = (time.perf_counter() - started) * 1000
        if len(taken.tasks) != BATCH:
            raise RuntimeError(f"{self.table.name}: claimed {len(taken.tasks)} of {BATCH}")
        return took_ms
