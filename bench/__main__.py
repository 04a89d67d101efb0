"""
`python -m bench tasks [--json] [--quick] [--only a,b]`: measure, print a table, say which targets are met.

`python -m bench NAME [--json] [--quick]`, with a name of `bench/suites.py`: the same for one thing by itself.
`python -m bench profile`: show where a worker process spends a drain. Exits 0 also when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import psycopg
import redis
import sqlalchemy
from rich.console import Console

from bench import profile
from bench.figures import Report
from bench.load import LoadFailed
from bench.peer_environment import PeersMissing
from bench.processes import ChildFailed
from bench.scenarios import SCENARIOS
from bench.size import FULL, QUICK
from bench.suites import SUITES, Suite
from bench.system import CHECKOUT, open_bench_servers
from core.errors import HeadraceError

# What may go wrong in one scenario without taking the others' figures away.
FAILURES = (
    ChildFailed,
    LoadFailed,
    HeadraceError,
    RuntimeError,
    OSError,
    psycopg.Error,
    redis.RedisError,
    sqlalchemy.exc.SQLAlchemyError,
)


def main(arguments: list[str]) -> int:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="bench", description="Measure Headrace beside its peers.")
    suites = parser.add_subparsers(dest="suite", required=True, metavar="NAME")
    tasks = suites.add_parser("tasks", help="the life of a task, side by side with other queues, against its targets")
    tasks.add_argument("--json", action="store_true", help="end with one JSON object")
    tasks.add_argument("--quick", action="store_true", help="small numbers, one round: shows that it works")
    tasks.add_argument("--only", default=",".join(names), help=f"scenarios, comma separated: {', '.join(names)}")
    for suite in SUITES:
        alone = suites.add_parser(suite.name, help=suite.help)
        alone.add_argument("--json", action="store_true", help="end with one JSON object")
        alone.add_argument("--quick", action="store_true", help=suite.quick_help)
    profiled = suites.add_parser("profile", help="where a worker process spends a drain")
    profiled.add_argument("--tasks", type=int, default=30_000, help="enqueued before (30000)")
    profiled.add_argument("--seconds", type=int, default=8, help="how long to sample (8)")
    given = parser.parse_args(arguments)
    os.chdir(CHECKOUT)  # our programs are run as `python -m web`, from here
    console = Console(width=None if sys.stdout.isatty() else 140)
    if given.suite == "profile":
        return _profile(console, tasks=given.tasks, seconds=given.seconds)
    for suite in SUITES:
        if given.suite == suite.name:
            return _alone(suite, console, quick=given.quick, as_json=given.json)
    wanted = [word.strip() for word in given.only.split(",")]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        parser.error(f"--only: no scenario {', '.join(unknown)}; there are {', '.join(names)}")
    report = run(wanted, quick=given.quick)
    report.show(console, title="bench tasks")
    if given.json:
        print(json.dumps(report.summary()))
    return 0


def _profile(console: Console, *, tasks: int, seconds: int) -> int:
    with open_bench_servers() as servers:
        try:
            profile.run(servers, tasks=tasks, seconds=seconds, console=console)
        except (ChildFailed, PeersMissing) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


def _alone(suite: Suite, console: Console, *, quick: bool, as_json: bool) -> int:
    """A suite of one scenario; when it fails its targets are unmet and a note says why."""
    report = Report()
    suite.expect(report)
    with open_bench_servers() as servers:
        try:
            suite.run(servers, report, quick)
        except FAILURES as error:
            report.notes.append(f"{suite.name} failed: {type(error).__name__}: {error}")
    report.show(console, title=f"bench {suite.name}")
    if as_json:
        print(json.dumps(report.summary()))
    return 0


def run(wanted: list[str], *, quick: bool) -> Report:
    """The scenarios in their order; one that fails leaves its targets unmet and a note."""
    report = Report()
    size = QUICK if quick else FULL
    with open_bench_servers() as servers:
        for scenario in SCENARIOS:
            if scenario.name not in wanted:
                continue
            scenario.expect(report)
            started = time.monotonic()
            print(f"bench: {scenario.name} ...", file=sys.stderr, flush=True)
            try:
                scenario.run(servers, size, report)
            except FAILURES as error:
                report.notes.append(f"{scenario.name} failed: {type(error).__name__}: {error}")
            print(f"bench: {scenario.name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
