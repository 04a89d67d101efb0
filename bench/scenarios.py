"""The table of scenarios: name, what it measures, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import claim, drain_tasks, enqueue, http_load, idle_start, memory, status_python
from bench.figures import Report
from bench.size import Size
from bench.system import Servers

Scenario = Callable[[Servers, Size, Report], None]


@dataclass(frozen=True, slots=True)
class Named:
    """
    One scenario.

    Args:
        expect: declares its targets; called even when the scenario fails, so that a target is never forgotten.
    """

    name: str
    run: Scenario
    expect: Callable[[Report], None]


SCENARIOS = (
    Named("drain", drain_tasks.run, drain_tasks.expect),
    Named("enqueue", enqueue.run, enqueue.expect),
    Named("accept", http_load.run_accepts, http_load.expect_accepts),
    Named("status-python", status_python.run, status_python.expect),
    Named("status-http", http_load.run_status, http_load.expect_status),
    Named("idle", idle_start.run, idle_start.expect),
    Named("memory", memory.run, memory.expect),
    Named("claim", claim.run, claim.expect),
)
