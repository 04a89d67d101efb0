"""How soon an idle worker starts a task: `started_at - created_at` of rows sent one at a time, at random intervals."""

from __future__ import annotations

import random
import time

from bench.figures import Report, percentile
from bench.size import Size
from bench.system import PAYLOAD, Servers, connect, noop_type, number, ready_worker
from headrace import open_app

WAITS = "SELECT extract(epoch FROM started_at - created_at)::float8 * 1000 FROM tasks ORDER BY created_at"
WARM_UP = 10  # tasks left out: first use of connections and statements
UNFINISHED = "SELECT count(*) FROM tasks WHERE finished_at IS NULL"


def expect(report: Report) -> None:
    report.expect("idle_start_p95_ms_1_process", "<", 25)
    report.expect("idle_start_p95_ms_2_processes", "<", 25)


def run(servers: Servers, size: Size, report: Report) -> None:
    for processes, name in ((1, "1_process"), (2, "2_processes")):
        waits = _waits(servers, size.starts, processes)
        report.add(f"idle_start_p50_ms_{name}", percentile(waits, 0.5))
        report.add(f"idle_start_p95_ms_{name}", percentile(waits, 0.95))
        report.add(f"idle_start_max_ms_{name}", max(waits))


def _waits(servers: Servers, starts: int, processes: int) -> list[float]:
    settings = servers.fresh("bench_idle", worker_processes=processes)
    noop = noop_type()
    with open_app(settings) as app, ready_worker(settings, servers.logs) as child, connect(settings) as connection:
        owner = app.keys.create(name="bench").key_id
        for _ in range(starts + WARM_UP):
            app.tasks.enqueue(noop.model_validate({"payload": PAYLOAD}), owner=owner)
            # The interval is the scenario, not a wait for a condition: long enough to be idle again, never in step.
            time.sleep(random.uniform(0.03, 0.25))
        child.wait_until(lambda: number(connection, UNFINISHED) == 0, what="the last task")
        rows = connection.execute(WAITS.encode()).fetchall()
    return [float(str(row[0])) for row in rows][WARM_UP:]
