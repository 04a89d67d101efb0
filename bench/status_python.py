"""
A status read in Python beside a bare redis-py GET of a value of the same size, in the same process, by turns.

Two tasks are read: a live one, which always costs Redis a question, and a final one, which this process remembers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.figures import Report
from bench.size import Size
from bench.system import PAYLOAD, Servers, noop_type, plain_redis
from headrace import open_app

SLICES = 10  # of a round, alternating: a slow moment hits both sides


def expect(report: Report) -> None:
    report.expect("status_python_live_vs_redis_get", ">=", 0.7)
    report.expect("status_python_final_vs_redis_get", ">=", 0.7)


def run(servers: Servers, size: Size, report: Report) -> None:
    settings = servers.fresh("bench_status")
    noop = noop_type()
    with open_app(settings) as app, plain_redis(settings) as client:
        owner = app.keys.create(name="bench").key_id
        live, final = (app.tasks.enqueue(noop.model_validate({"payload": PAYLOAD}), owner=owner) for _ in range(2))
        app.tasks.cancel(final.public_id, owner=owner)
        client.set("bench:value", b"x" * len(app.tasks.status(live.public_id, owner=owner).body))
        sides: dict[str, Callable[[], object]] = {
            "redis_get_per_s": lambda: client.get("bench:value"),
            "status_python_live_per_s": lambda: app.tasks.get(live.public_id, owner=owner),
            "status_python_final_per_s": lambda: app.tasks.get(final.public_id, owner=owner),
        }
        for _ in range(size.rounds):
            for name, rate in _round(sides, size.reads).items():
                report.add(name, rate)
    for kind in ("live", "final"):
        report.add_ratio(f"status_python_{kind}_vs_redis_get", f"status_python_{kind}_per_s", "redis_get_per_s")


def _round(sides: dict[str, Callable[[], object]], reads: int) -> dict[str, float]:
    spent = dict.fromkeys(sides, 0.0)
    for _ in range(SLICES):
        for name, read in sides.items():
            started = time.perf_counter()
            for _ in range(reads // SLICES):
                read()
            spent[name] += time.perf_counter() - started
    return {name: reads // SLICES * SLICES / seconds for name, seconds in spent.items()}
