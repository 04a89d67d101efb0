"""
Celery with its results in PostgreSQL: broker Redis, backend SQLAlchemy, as its documentation sets them up.

Run: `python celery_postgres.py N` enqueues; `celery -A celery_postgres worker -P threads -c 8` works.
"""

from __future__ import annotations

import os
import sys
import time

from celery import Celery

DATABASE = os.environ["BENCH_DATABASE_URL"].split("://", 1)[1]
app = Celery(
    "celery_postgres",
    broker=os.environ["BENCH_REDIS_URL"],
    backend=f"db+postgresql+psycopg://{DATABASE}",
)
app.conf.update(
    task_default_queue="bench",
    database_create_tables_at_setup=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(payload: str) -> str:
    return "ok"


if __name__ == "__main__":
    total, payload = int(sys.argv[1]), "x" * 200
    started = time.perf_counter()
    for _ in range(total):
        noop.delay(payload)
    print(total / (time.perf_counter() - started))
