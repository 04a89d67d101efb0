"""
What 10,000 hourly schedules cost: the CPU time of one scheduler process, and of the database on its behalf.

`steady`: their due times lie evenly over the hour. `burst`: all of them are due in the same second. Each fire enqueues
a task; no worker runs, so nothing but the schedule uses the database.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from bench.figures import Report, percentile
from bench.processes import Child, running
from bench.system import Servers, connect, number
from core.app import open_app
from core.schedules.spec import ScheduleSpec
from core.settings import Settings, child_environment

SCHEDULES = 10_000
TARGET_PERCENT = 5

_COPY = """
INSERT INTO schedules (id, name, kind, every_s, timezone, jitter_s, missed, overlap, enabled, owner_id, task, anchor_at,
    next_due, fire_at, version, runs, failures, skips, recent, created_at, changed_at)
SELECT gen_random_uuid(), 'copy-' || n, kind, every_s, timezone, jitter_s, missed, overlap, enabled, owner_id, task,
    at, at, at, version, 0, 0, 0, '[]', now(), now()
FROM schedules, generate_series(1, %(count)s) AS n,
    LATERAL (
        SELECT date_trunc('second', now()) + make_interval(secs => %(first)s + %(spread)s * n / %(count)s)) AS t(at)
WHERE name = 'first'
"""
_FIRED = "SELECT count(*) FROM schedule_runs WHERE outcome = 'enqueued'"
_LATENESS = "SELECT lateness_s FROM schedule_runs WHERE outcome = 'enqueued'"


def expect(report: Report) -> None:
    report.expect("scheduler_cpu_percent", "<", TARGET_PERCENT)


def run(servers: Servers, report: Report, *, seconds: int) -> None:
    """Args: seconds: how long the steady state is watched."""
    _steady(servers, report, seconds)
    _burst(servers, report)


def _steady(servers: Servers, report: Report, seconds: int) -> None:
    settings = servers.fresh("bench_schedules")
    with connect(settings) as connection, _scheduler(settings, servers.logs, connection) as child:
        _fill(settings, connection, first_s=1, spread_s=3600)
        before, began = _cpu_s(child.pid), time.monotonic()
        backend_before = _backends_cpu_s(connection)
        # The length of the watch is the scenario.
        time.sleep(seconds)
        child.check()
        took_s = time.monotonic() - began
        report.add("scheduler_cpu_percent", 100 * (_cpu_s(child.pid) - before) / took_s)
        report.add("scheduler_database_cpu_percent", 100 * (_backends_cpu_s(connection) - backend_before) / took_s)
        report.add("scheduler_fires", number(connection, _FIRED))
        report.add("scheduler_lateness_p99_ms", _lateness_p99_ms(connection))


def _burst(servers: Servers, report: Report) -> None:
    settings = servers.fresh("bench_schedules")
    with connect(settings) as connection, _scheduler(settings, servers.logs, connection) as child:
        before = _cpu_s(child.pid)
        _fill(settings, connection, first_s=3, spread_s=0)
        child.wait_until(lambda: number(connection, _FIRED) == SCHEDULES, what="all fires of the burst")
        report.add("scheduler_burst_cpu_s", _cpu_s(child.pid) - before)
        report.add("scheduler_burst_lateness_p99_ms", _lateness_p99_ms(connection))


@contextmanager
def _scheduler(settings: Settings, logs: Path, connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[Child]:
    """One scheduler process, registered."""
    argv = [sys.executable, "-m", "jobs"]
    with running("scheduler", argv, env=child_environment(settings), logs=logs) as child:
        child.wait_until(lambda: number(connection, "SELECT count(*) FROM workers") > 0, what="the scheduler")
        yield child


def _fill(
    settings: Settings, connection: psycopg.Connection[tuple[object, ...]], *, first_s: int, spread_s: int
) -> None:
    """One schedule made as a person would, the others as copies of its row."""
    with open_app(settings) as app:
        owner = app.keys.create(name="bench").key_id
        task = {"type": "diagnostic.noop", "input": {}}
        app.schedules.create(ScheduleSpec(name="first", owner=owner, task=task, every_s=3600, enabled=False))
    connection.execute(_COPY, {"count": SCHEDULES, "first": first_s, "spread": spread_s})
    connection.execute("UPDATE schedules SET enabled = true WHERE name LIKE 'copy-%'")
    connection.execute("ANALYZE schedules")


def _cpu_s(pid: int) -> float:
    """User and system time of a process, as /proc tells it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _backends_cpu_s(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """Of the scheduler's connections; they live as long as it does."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    total = 0.0
    for row in connection.execute(query).fetchall():
        with suppress(FileNotFoundError):  # one that ended meanwhile
            total += _cpu_s(int(str(row[0])))
    return total


def _lateness_p99_ms(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    return 1000 * percentile([float(str(row[0])) for row in connection.execute(_LATENESS).fetchall()], 0.99)
