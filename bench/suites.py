"""The suites of one scenario: what each measures, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import capabilities, invalidation, keys, limiter, schedules, strangers
from bench.figures import Report
from bench.system import Servers


@dataclass(frozen=True, slots=True)
class Suite:
    """
    Args:
        run: measures; its last argument: only to show that it works.
    """

    name: str
    help: str
    quick_help: str
    expect: Callable[[Report], None]
    run: Callable[[Servers, Report, bool], None]


SUITES = (
    Suite(
        "schedules",
        "what 10,000 hourly schedules cost a scheduler and the database",
        "20 seconds instead of ten minutes",
        schedules.expect,
        lambda servers, report, quick: schedules.run(servers, report, seconds=20 if quick else 600),
    ),
    Suite(
        "capabilities",
        "how soon two web processes serve a new model among 10,000",
        "10 rounds instead of 100",
        capabilities.expect,
        lambda servers, report, quick: capabilities.run(servers, report, rounds=10 if quick else 100),
    ),
    Suite(
        "invalidation",
        "from the commit of a disable to its effect in three processes",
        "50 rounds instead of 500",
        invalidation.expect,
        lambda servers, report, quick: invalidation.run(servers, report, rounds=50 if quick else 500),
    ),
    Suite(
        "keys",
        "what it costs to know a key by memory, Redis and database; the whole door; how late a revocation is",
        "one round and two seconds of door instead of five and ten",
        keys.expect,
        lambda servers, report, quick: keys.run(servers, report, quick=quick),
    ),
    Suite(
        "limiter",
        "what a decision over limits costs, beside the limits library",
        "one round of 1,000 decisions instead of five of 10,000",
        limiter.expect,
        lambda servers, report, quick: limiter.run(
            servers, report, decisions=1_000 if quick else 10_000, rounds=1 if quick else 5
        ),
    ),
    Suite(
        "strangers",
        "what 1,000,000 invented keys cost a web process, the database and a known caller",
        "50,000 keys",
        strangers.expect,
        lambda servers, report, quick: strangers.run(
            servers, report, keys=50_000 if quick else 1_000_000, addresses=5_000 if quick else 100_000
        ),
    ),
)
