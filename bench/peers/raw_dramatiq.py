"""
Dramatiq at its fastest: no results, no retries, no middleware at all, so nothing is written to PostgreSQL.

Run: `python raw_dramatiq.py N` enqueues; `dramatiq raw_dramatiq -p 1 -t 8` works.
"""

from __future__ import annotations

import os
import sys
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

URL = os.environ["BENCH_REDIS_URL"]
broker = RedisBroker(url=URL, middleware=[])
dramatiq.set_broker(broker)
counter = redis.Redis.from_url(URL)


@dramatiq.actor(queue_name="bench")
def noop(payload: str) -> None:
    # The only trace a task leaves without a result; a PostgreSQL row would cost Dramatiq far more.
    counter.incr("bench:done")


if __name__ == "__main__":
    total, payload = int(sys.argv[1]), "x" * 200
    started = time.perf_counter()
    for _ in range(total):
        noop.send(payload)
    print(total / (time.perf_counter() - started))
