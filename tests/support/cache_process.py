"""
Another process with a cache over the same Redis: `python -m tests.support.cache_process REDIS_URL PREFIX`.

It reads `get ID VERSION` and answers `got VERSION`. When it has to load, it takes VERSION as the row's, says
`read`, and goes on when it reads `go`.
"""

from __future__ import annotations

import sys

from core.connections import RedisLink
from tests.support.caches import Pass, Process, pass_spec


def main(url: str, prefix: str) -> None:
    version = 0

    def load(_: str) -> Pass | None:
        say("read")
        assert sys.stdin.readline().strip() == "go"
        return Pass(version)

    cache = Process(RedisLink(url, timeout_s=5.0), pass_spec(prefix), load).cache
    for line in iter(sys.stdin.readline, ""):
        _, id, number = line.split()
        version = int(number)
        found = cache.get(id)
        say(f"got {None if found is None else found.version}")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (its answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
