"""The jobs there are: each module of a package declares one as `JOB`."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from datetime import UTC, datetime

from core.errors import InvalidRequest
from core.schedules.due import check_timing
from core.schedules.model import Timing
from jobs.spec import JobSpec

logger = logging.getLogger(__name__)

ANCHOR = datetime(2000, 1, 1, tzinfo=UTC)
"""What `every` counts from: a restart never resets a period (reliability.md A9)."""


def load_jobs(package: str) -> dict[str, JobSpec]:
    """
    By name. A file that cannot be imported, or declares no job that can work, is told and left out: the others go on,
    and its row says that it is gone.
    """
    found: dict[str, JobSpec] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        try:
            spec = _job_in(module.name)
        # Broad: whatever a job's file does when it is imported must not stop the others.
        except Exception:
            logger.exception("job cannot be loaded", extra={"job_module": module.name})
            continue
        found[spec.name] = spec
    return found


def timing_of(spec: JobSpec) -> Timing:
    return Timing(
        name=spec.name,
        anchor_at=ANCHOR,
        cron=spec.cron,
        every_s=None if spec.every is None else spec.every.total_seconds(),
        timezone=spec.timezone,
        jitter_s=spec.jitter.total_seconds(),
    )


def _job_in(name: str) -> JobSpec:
    spec: object = getattr(importlib.import_module(name), "JOB", None)
    if not isinstance(spec, JobSpec):
        raise TypeError(f"{name}: declare JOB = JobSpec(...)")
    if spec.name != name.rpartition(".")[2]:
        raise ValueError(f"{name}: the job is called {spec.name!r}; it must have the file's name")
    try:
        check_timing(timing_of(spec))
    except InvalidRequest as error:
        raise ValueError(f"{name}: {error}") from error
    return spec
