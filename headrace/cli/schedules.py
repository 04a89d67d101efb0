"""`headrace schedules`: tasks that are enqueued again and again for an owner."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from core.schedules.book import MAX_PAGE
from core.schedules.documents import schedule_document
from core.schedules.model import Schedule
from core.schedules.spec import ScheduleSpec
from headrace.cli.acts import acted, acting
from headrace.cli.inputs import input_text, json_object, only_owner, parsed
from headrace.cli.output import (
    EXIT_CODES,
    AsJson,
    DataDir,
    Exit,
    ago,
    complain,
    note,
    opened,
    pretty,
    say_fields,
    say_json,
    say_table,
)
from headrace.cli.runs import local, outcome, say_fires, say_history, state
from headrace.cli.schedule_options import (
    Attempts,
    Cron,
    Deadline,
    Every,
    Input,
    InputFile,
    Jitter,
    Metadata,
    MissedOption,
    Name,
    OverlapOption,
    Owner,
    Priority,
    Queue,
    Zone,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make, preview, change and delete schedules that enqueue tasks.",
)

SHOWN_RUNS = 10


@app.command("list", epilog=EXIT_CODES)
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="The most schedules to show.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="From the page before.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List schedules, by name.

    Example: headrace schedules list --json
    """
    with opened(data_dir) as headrace:
        page = headrace.schedules.list(limit=limit, cursor=cursor)
    if as_json:
        say_json({"schedules": [schedule_document(s) for s in page.schedules], "next_cursor": page.next_cursor})
        return
    rows = [(s.name, s.timing.text, _type(s), state(s), ago(s.next_due), outcome(s.last_run)) for s in page.schedules]
    say_table(("SCHEDULE", "WHEN", "TASK", "STATE", "NEXT", "LAST RUN"), rows)
    if page.next_cursor is not None:
        note(f"there are more: --cursor {page.next_cursor}")


@app.command(epilog=EXIT_CODES)
def show(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Show a schedule, its next ten fires and its last runs.

    Example: headrace schedules show nightly-report
    """
    with opened(data_dir) as headrace:
        schedule = headrace.schedules.get(name)
        fires = headrace.schedules.fires(schedule)
        page = headrace.schedules.history(name, limit=SHOWN_RUNS)
    if as_json:
        say_json(schedule_document(schedule, fires=fires, runs=page.runs))
        return
    say_fields(_fields(schedule))
    if fires:
        typer.echo("")
        say_fires(fires, schedule.timing.timezone)
    if page.runs:
        typer.echo("")
        say_history(page, as_json=False)


@app.command(epilog=EXIT_CODES)
def preview(
    *,
    cron: Cron = None,
    every_s: Every = None,
    timezone: Zone = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Show the next ten fires of a schedule that is not saved.

    Example: headrace schedules preview --cron '30 2 * * *' --timezone Europe/Berlin
    """
    spec = ScheduleSpec(name="preview", owner="", task={}, cron=cron, every_s=every_s, timezone=timezone or "UTC")
    with opened(data_dir) as headrace:
        fires = headrace.schedules.preview(spec)
    if as_json:
        say_json({"fires": fires})
    else:
        say_fires(fires, spec.timezone)


@app.command(epilog=EXIT_CODES)
def add(
    *,
    name: Name,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="A task type, e.g. chat.completion.")],
    cron: Cron = None,
    every_s: Every = None,
    timezone: Zone = None,
    jitter_s: Jitter = None,
    missed: MissedOption = None,
    overlap: OverlapOption = None,
    owner: Owner = None,
    input_json: Input = None,
    input_file: InputFile = None,
    queue: Queue = None,
    priority: Priority = None,
    max_attempts: Attempts = None,
    deadline_s: Deadline = None,
    metadata: Metadata = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Save it, and let it rest.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, at a terminal, before it is saved.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Make a schedule: shows its next ten fires, then saves it.

    Example: headrace schedules add nightly-report chat.completion --cron '30 2 * * *' --timezone Europe/Berlin --input
    '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Report"}]}'
    """
    task = _given(queue=queue, priority=priority, max_attempts=max_attempts, deadline_s=deadline_s)
    task |= {"type": type_, "input": parsed(input_text(input_json, input_file), field="input")}
    if metadata is not None:
        task["metadata"] = json_object(metadata, field="metadata")
    timing = _given(cron=cron, every_s=every_s, timezone=timezone, jitter_s=jitter_s, missed=missed, overlap=overlap)
    with opened(data_dir) as headrace:
        spec = ScheduleSpec(name=name, owner=owner or only_owner(headrace), task=task, enabled=not disabled, **timing)
        headrace.schedules.check(spec)
        if not as_json:
            say_fires(headrace.schedules.preview(spec), spec.timezone)
            _confirm(name, yes=yes)
        with acted(headrace, "schedules add", name):
            schedule = headrace.schedules.create(spec)
        fires = headrace.schedules.fires(schedule)
    if as_json:
        say_json(schedule_document(schedule, fires=fires))
    else:
        typer.echo(f"schedule {schedule.name} is saved, {state(schedule)}")


@app.command(epilog=EXIT_CODES)
def update(
    *,
    name: Name,
    type_: Annotated[str | None, typer.Option("--type", help="Another task type.")] = None,
    cron: Cron = None,
    every_s: Every = None,
    timezone: Zone = None,
    jitter_s: Jitter = None,
    missed: MissedOption = None,
    overlap: OverlapOption = None,
    owner: Owner = None,
    input_json: Input = None,
    input_file: InputFile = None,
    queue: Queue = None,
    priority: Priority = None,
    max_attempts: Attempts = None,
    deadline_s: Deadline = None,
    metadata: Metadata = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Change what is given, and leave the rest. A new timing begins now.

    Example: headrace schedules update nightly-report --cron '0 4 * * *'
    """
    task = _given(type=type_, queue=queue, priority=priority, max_attempts=max_attempts, deadline_s=deadline_s)
    if input_json is not None or input_file is not None:
        task["input"] = parsed(input_text(input_json, input_file), field="input")
    if metadata is not None:
        task["metadata"] = json_object(metadata, field="metadata")
    changes = _given(cron=cron, every_s=every_s, timezone=timezone, jitter_s=jitter_s, owner=owner)
    changes |= _given(missed=missed, overlap=overlap)
    if not changes and not task:
        raise typer.BadParameter("say what to change; `headrace schedules update --help` shows the options")
    with acting(data_dir, "schedules update", name) as headrace:
        old = headrace.schedules.get(name)
        if task:
            changes["task"] = {**(old.task or {}), **task}
        schedule = headrace.schedules.update(name, changes, version=old.version)
        fires = headrace.schedules.fires(schedule)
    _say_changed(schedule, fires, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def enable(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Let a schedule fire, from its next due time on.

    Example: headrace schedules enable nightly-report
    """
    with acting(data_dir, "schedules enable", name) as headrace:
        schedule = headrace.schedules.resume(name)
        fires = headrace.schedules.fires(schedule)
    _say_changed(schedule, fires, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def disable(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Let a schedule rest. Tasks it has enqueued go on.

    Example: headrace schedules disable nightly-report
    """
    with acting(data_dir, "schedules disable", name) as headrace:
        schedule = headrace.schedules.pause(name)
    _say_changed(schedule, [], as_json=as_json)


@app.command(epilog=EXIT_CODES)
def delete(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Forget a schedule and its history. Tasks it has enqueued stay.

    Example: headrace schedules delete nightly-report
    """
    with acting(data_dir, "schedules delete", name) as headrace:
        headrace.schedules.delete(name)
    if as_json:
        say_json({"name": name, "deleted": True})
    else:
        typer.echo(f"schedule {name} is deleted")


def _given(**options: object) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _confirm(name: str, *, yes: bool) -> None:
    """Asks a person; a script is not asked."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not typer.confirm(f"Save {name}?", default=True, err=True):
        complain("nothing was saved")
        raise typer.Exit(Exit.REFUSED)


def _say_changed(schedule: Schedule, fires: list[datetime], *, as_json: bool) -> None:
    if as_json:
        say_json(schedule_document(schedule, fires=fires))
        return
    if fires:
        say_fires(fires, schedule.timing.timezone)
    typer.echo(f"schedule {schedule.name} is {state(schedule)}")


def _type(schedule: Schedule) -> str:
    return "-" if schedule.task is None else str(schedule.task["type"])


def _fields(schedule: Schedule) -> list[tuple[str, str]]:
    timing = schedule.timing
    fields = [
        ("schedule", schedule.name),
        ("when", timing.text + (f", up to {timing.jitter_s:g} s later" if timing.jitter_s else "")),
        ("state", state(schedule)),
        ("owner", schedule.owner_id or "-"),
        ("missed", f"{schedule.missed}, overlap {schedule.overlap}"),
        ("runs", f"{schedule.runs}, {schedule.failures} failed, {schedule.skips} skipped"),
    ]
    if schedule.last_due is not None:
        fields.append(("last due", local(schedule.last_due, timing.timezone)))
    return [*fields, ("task", pretty(schedule.task))]
