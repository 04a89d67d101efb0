"""
Tell every process which limits of virtual keys changed, and renew their copies in Redis.

idempotent: limits carry the version of their row; told again they change nothing (core/access/keys/limits_refresh.py).
"""

from __future__ import annotations

from datetime import timedelta

from core.access.keys.limits_refresh import EVERY
from jobs.spec import JobContext, JobSpec


def run(ctx: JobContext) -> str:
    return f"told the limits of {ctx.app.access.limits_refresh.run()} keys"


JOB = JobSpec(name="refresh_rate_limits", run=run, every=EVERY, timeout=timedelta(seconds=25))
