"""
The `limits` library's sliding-window counter on Redis: as many decisions as asked for, one after another.

Run: `python limits_sliding.py N WINDOWS` with BENCH_REDIS_URL; prints `{"per_s", "p50_us", "p99_us"}`. Several windows
are several calls: it has no decision over more than one.
"""

from __future__ import annotations

import json
import os
import sys
import time

from limits import RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

if __name__ == "__main__":
    total, windows = int(sys.argv[1]), int(sys.argv[2])
    limiter = SlidingWindowCounterRateLimiter(RedisStorage(os.environ["BENCH_REDIS_URL"]))
    items = [RateLimitItemPerMinute(1_000_000), RateLimitItemPerDay(100_000_000)][:windows]
    took: list[float] = []
    for n in range(total + 100):
        began = time.perf_counter()
        for item in items:
            limiter.hit(item, f"key{n % 100}")
        took.append(time.perf_counter() - began)
    took = sorted(took[100:])  # the first ones connect and load scripts
    print(
        json.dumps(
            {
                "per_s": total / sum(took),
                "p50_us": took[total // 2] * 1e6,
                "p99_us": took[total * 99 // 100] * 1e6,
            }
        )
    )
