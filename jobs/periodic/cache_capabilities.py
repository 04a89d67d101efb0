"""
Ask every enabled provider what it serves, once a day.

Only makes tasks: the network is theirs. idempotent: a list younger than an hour is not asked for again, and a task that
was made is remembered (core/capabilities/requests.py). The start of a process and a change of a provider ask by
themselves.
"""

from __future__ import annotations

from datetime import timedelta

from jobs.spec import JobContext, JobSpec

YOUNG = timedelta(hours=1)


def run(ctx: JobContext) -> str:
    made = ctx.app.discoveries.request_stale(older_than=YOUNG)
    return f"asked for {len(made)} discoveries"


JOB = JobSpec(name="cache_capabilities", run=run, every=timedelta(hours=24), jitter=timedelta(minutes=5))
