"""
LiteLLM's DualCache: reads of one of many entries from its memory, and from Redis when its memory is empty.

Run: `python dual_cache.py READS` with BENCH_REDIS_URL and an entry, a JSON object, on standard input; prints
`{"memory_p50_us", "memory_p99_us", "redis_p50_us", "redis_p99_us", "async_redis_p50_us", "async_redis_p99_us"}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from urllib.parse import urlsplit

# Importing it would fetch a list of prices otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from litellm.caching.caching import DualCache
from litellm.caching.in_memory_cache import InMemoryCache
from litellm.caching.redis_cache import RedisCache

ENTRIES = 100  # fewer than its memory holds


def read_all(cache: DualCache, reads: int, took: list[float]) -> None:
    for number in range(reads):
        name = f"entry{number % ENTRIES}"
        began = time.perf_counter()
        found = cache.get_cache(name)
        took.append(time.perf_counter() - began)
        assert found is not None


async def read_all_async(cache: DualCache, reads: int) -> list[float]:
    took: list[float] = []
    for number in range(reads + ENTRIES):
        if number % ENTRIES == 0:
            cache.in_memory_cache.flush_cache()
        name = f"entry{number % ENTRIES}"
        began = time.perf_counter()
        found = await cache.async_get_cache(name)
        took.append(time.perf_counter() - began)
        assert found is not None
    return took[ENTRIES:]


def percentiles(name: str, took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {
        f"{name}_p50_us": ordered[len(ordered) // 2] * 1e6,
        f"{name}_p99_us": ordered[len(ordered) * 99 // 100] * 1e6,
    }


def main() -> None:
    reads = int(sys.argv[1])
    entry = json.loads(sys.stdin.read())
    url = urlsplit(os.environ["BENCH_REDIS_URL"])
    redis = RedisCache(
        host=url.hostname,
        port=url.port,
        password=url.password,
        db=int(url.path.lstrip("/") or 0),
        username=url.username,
    )
    cache = DualCache(in_memory_cache=InMemoryCache(), redis_cache=redis)
    for number in range(ENTRIES):
        cache.set_cache(f"entry{number}", entry)
    memory: list[float] = []
    read_all(cache, ENTRIES, [])
    read_all(cache, reads, memory)
    beyond: list[float] = []
    for _ in range(max(1, reads // ENTRIES // 10)):
        cache.in_memory_cache.flush_cache()
        read_all(cache, ENTRIES, beyond)
    found = percentiles("memory", memory) | percentiles("redis", beyond[ENTRIES:] or beyond)
    print(json.dumps(found | percentiles("async_redis", asyncio.run(read_all_async(cache, max(ENTRIES, reads // 10))))))


if __name__ == "__main__":
    main()
