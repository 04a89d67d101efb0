"""
Procrastinate: queue and state are PostgreSQL rows. The task is a coroutine, which is its cheapest form.

Run: `python procrastinate_app.py N` makes the schema and enqueues;
`procrastinate --app procrastinate_app.app worker --concurrency 8` works.
"""

from __future__ import annotations

import os
import sys
import time

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"]))


@app.task(name="noop", queue="bench")
async def noop(payload: str) -> str:
    return "ok"


def enqueue(total: int) -> float:
    payload = "x" * 200
    connector = SyncPsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"])
    with app.replace_connector(connector) as sync_app, sync_app.open():
        sync_app.schema_manager.apply_schema()
        started = time.perf_counter()
        for first in range(0, total, 1_000):
            noop.batch_defer(*({"payload": payload} for _ in range(min(1_000, total - first))))
        return total / (time.perf_counter() - started)


if __name__ == "__main__":
    print(enqueue(int(sys.argv[1])))
