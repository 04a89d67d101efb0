"""Bulk enqueue from Python: one `enqueue_many`, with making and validating the inputs counted."""

from __future__ import annotations

import time

from bench.figures import Report
from bench.size import Size
from bench.system import PAYLOAD, Servers, connect, noop_type, number
from headrace import open_app

ROUNDS_EACH = 2  # a bulk takes about a second: twice the rounds cost nothing


def expect(report: Report) -> None:
    report.expect("enqueue_many_per_s", ">=", 20_000)


def run(servers: Servers, size: Size, report: Report) -> None:
    """Each round into an empty table; the rows are counted afterwards by an outside reader."""
    noop = noop_type()
    for _ in range(size.rounds * ROUNDS_EACH):
        settings = servers.fresh("bench_enqueue")
        with open_app(settings) as app, connect(settings) as connection:
            owner = app.keys.create(name="bench").key_id
            app.tasks.enqueue_many([noop.model_validate({"payload": PAYLOAD}) for _ in range(10)], owner=owner)
            started = time.perf_counter()
            tasks = [noop.model_validate({"payload": PAYLOAD}) for _ in range(size.bulk_tasks)]
            app.tasks.enqueue_many(tasks, owner=owner)
            took = time.perf_counter() - started
            stored = number(connection, "SELECT count(*) FROM tasks") - 10
            if stored != size.bulk_tasks:
                raise RuntimeError(f"{stored} of {size.bulk_tasks} tasks were stored")
        report.add("enqueue_many_per_s", size.bulk_tasks / took)
