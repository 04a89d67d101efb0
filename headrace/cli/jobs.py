"""`headrace jobs`: the periodic work of the schedulers themselves, one file each in `jobs/periodic/`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from core.app import App
from core.schedules.book import MAX_PAGE
from core.schedules.documents import job_document, run_document
from core.schedules.model import Run, RunOutcome, Schedule, ScheduleKind
from headrace.cli.acts import acted, acting
from headrace.cli.output import (
    EXIT_CODES,
    AsJson,
    DataDir,
    Exit,
    ago,
    complain,
    note,
    one_line,
    opened,
    say_json,
    say_table,
)
from headrace.cli.runs import local, outcome, say_fires, say_history, state

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, run, pause and resume periodic jobs, and see what their runs did.",
)

JobName = Annotated[str, typer.Argument(metavar="JOB", help="As `headrace jobs list` shows it, e.g. prune.")]

LOOK_S = 0.25
_OPEN = (RunOutcome.WAITING, RunOutcome.RUNNING)


@app.command("list", epilog=EXIT_CODES)
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    List all jobs: when each is due, and what its last run did.

    Example: headrace jobs list --json
    """
    with opened(data_dir) as headrace:
        jobs = _jobs(headrace)
    if as_json:
        say_json({"jobs": [job_document(job) for job in jobs]})
        return
    if not jobs:
        note("no jobs yet: a scheduler (python -m jobs, or headrace up) brings them when it starts")
    rows = [(job.name, job.timing.text, state(job), ago(job.next_due), outcome(job.last_run)) for job in jobs]
    say_table(("JOB", "SCHEDULE", "STATE", "NEXT", "LAST RUN"), rows)


@app.command("next", epilog=EXIT_CODES)
def next_(
    name: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this one, and its next ten.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Show what is due next: the next fire of each job, soonest first, or the next ten of one.

    Example: headrace jobs next prune
    """
    with opened(data_dir) as headrace:
        if name is not None:
            job = headrace.schedules.get(name, ScheduleKind.JOB)
            fires = headrace.schedules.fires(job)
            if as_json:
                say_json({"name": job.name, "fires": fires})
            else:
                say_fires(fires, job.timing.timezone)
            return
        due = sorted((job.next_due, job.name, job.timing.timezone) for job in _jobs(headrace) if job.next_due)
    if as_json:
        say_json({"jobs": [{"name": found, "next_due": at} for at, found, _ in due]})
        return
    say_table(("JOB", "DUE", "WHEN"), [(found, local(at, zone), ago(at)) for at, found, zone in due])


@app.command(epilog=EXIT_CODES)
def run(
    *,
    name: JobName,
    wait: Annotated[bool, typer.Option("--wait", help="Until it ended; exit 1 unless it succeeded.")] = False,
    timeout_s: Annotated[float, typer.Option(help="The longest --wait, seconds; then exit 3.")] = 600,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Ask a scheduler to run a job now, also a paused one. It takes the run within about a second.

    Example: headrace jobs run prune --wait
    """
    with opened(data_dir) as headrace:
        with acted(headrace, "jobs run", name):
            found = headrace.schedules.run_now(name, ScheduleKind.JOB)
        if wait:
            found = _ended(headrace, name, found, timeout_s=timeout_s)
    if as_json:
        say_json(run_document(found))
    elif not wait:
        typer.echo(f"asked for a run of {name}; `headrace jobs history {name}` shows it")
    else:
        typer.echo(f"{name}: {outcome(found)}" + (f": {one_line(found.reason)}" if found.reason else ""))
    if wait and found.outcome in _OPEN:
        complain(f"the run of {name} is {found.outcome} after {timeout_s:g} s; is a scheduler running?")
        raise typer.Exit(Exit.UNAVAILABLE)
    if wait and found.outcome is not RunOutcome.SUCCEEDED:
        raise typer.Exit(Exit.REFUSED)


@app.command(epilog=EXIT_CODES)
def pause(name: JobName, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Let a job rest until it is resumed. A run that goes on is left alone.

    Example: headrace jobs pause prune
    """
    with acting(data_dir, "jobs pause", name) as headrace:
        job = headrace.schedules.pause(name, ScheduleKind.JOB)
    _say_job(job, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def resume(name: JobName, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Let a paused job run again, from its next due time on.

    Example: headrace jobs resume prune
    """
    with acting(data_dir, "jobs resume", name) as headrace:
        job = headrace.schedules.resume(name, ScheduleKind.JOB)
    _say_job(job, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def history(
    *,
    name: JobName,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="The most runs to show.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="From the page before.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Show the runs of a job, newest first; with --json also the last lines each logged.

    Example: headrace jobs history prune --limit 5
    """
    with opened(data_dir) as headrace:
        page = headrace.schedules.history(name, ScheduleKind.JOB, limit=limit, cursor=cursor)
    say_history(page, as_json=as_json)


def _jobs(headrace: App) -> list[Schedule]:
    return headrace.schedules.list(ScheduleKind.JOB, limit=MAX_PAGE).schedules


def _ended(headrace: App, name: str, asked: Run, *, timeout_s: float) -> Run:
    """The run when it is over, or as it is when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        page = headrace.schedules.history(name, ScheduleKind.JOB, limit=MAX_PAGE)
        # Not by its id: a run of a frequent job has none once it ended.
        found = next((run for run in page.runs if run.due_at == asked.due_at), asked)
        left = deadline - time.monotonic()
        if found.outcome not in _OPEN or left <= 0:
            return found
        time.sleep(min(LOOK_S, left))


def _say_job(job: Schedule, *, as_json: bool) -> None:
    if as_json:
        say_json(job_document(job))
    else:
        typer.echo(f"job {job.name} is {state(job)}" + (f", next {ago(job.next_due)}" if job.next_due else ""))
