"""`headrace tasks`: what the API offers, for a person at the data directory. Sees every owner's tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from core.app import App
from core.errors import InvalidRequest, Unavailable
from core.tasks.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, Task, TaskState, load_json
from core.tasks.validation import validate_input
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

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Enqueue, show, list, cancel and retry tasks.",
)

TaskDocument = dict[str, Any]  # a task as in docs/contract.md: its result and metadata have any shape

WATCH_S = 0.25  # between two looks; a look at a live task is answered by Redis

TaskIdArgument = Annotated[str, typer.Argument(metavar="TASK_ID", help="`task_` and 32 digits.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", metavar="KEY_ID", help="Only this key's tasks.")]


@app.command(epilog=EXIT_CODES)
def enqueue(
    *,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="A task type, e.g. chat.completion.")],
    input_json: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="The input.", show_default="{}")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", metavar="FILE", help="Read the input from a file; - is stdin.")
    ] = None,
    queue: Annotated[str, typer.Option(help="See `headrace queues list`.")] = DEFAULT_QUEUE,
    priority: Annotated[int, typer.Option(help="0 to 9; higher runs first.")] = DEFAULT_PRIORITY,
    run_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before this time, e.g. 2026-01-31T12:00:00Z.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Attempts before it fails.", show_default="the type's")
    ] = None,
    deadline_s: Annotated[
        float | None, typer.Option(help="Seconds until it times out.", show_default="the type's")
    ] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="An object, handed back unchanged.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Sent again with this key, it is the same task.")] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="KEY_ID", help="Whose task it is.", show_default="the only enabled key"),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is final; exit 1 unless it completed.")] = False,
    timeout_s: Annotated[float, typer.Option(help="The longest --wait, seconds; then exit 3.")] = 600,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Enqueue one task.

    Example: headrace tasks enqueue chat.completion --input
    '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}' --wait
    """
    text = input_text(input_json, input_file)
    with opened(data_dir) as headrace:
        spec = headrace.types.get(type_)
        with acted(headrace, "tasks enqueue") as act:
            accepted = headrace.tasks.enqueue(
                validate_input(spec, parsed(text, field="input")),
                owner=owner or only_owner(headrace),
                queue=queue,
                priority=priority,
                run_at=None if run_at is None else _time(run_at),
                max_attempts=max_attempts,
                deadline=None if deadline_s is None else _seconds(deadline_s),
                metadata=None if metadata is None else json_object(metadata, field="metadata"),
                idempotency_key=idempotency_key,
            )
            act.subject = accepted.public_id
        document = _document(accepted)
        if wait:
            if not as_json:
                note(f"accepted {accepted.public_id}; waiting")
            document = headrace.tasks.wait(accepted.public_id, timeout=timedelta(seconds=timeout_s))
    _say_task(document, as_json=as_json)
    if wait:
        _end_by(document, timeout_s)


@app.command(epilog=EXIT_CODES)
def show(
    task_id: TaskIdArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it is final.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Show a task. With --watch each change is a line on stderr, and the final task is printed at the end.

    Example: headrace tasks show task_0f3a5c7e9b1d2f4a6c8e0b1d3f5a7c9e --watch
    """
    with opened(data_dir) as headrace:
        document: TaskDocument = headrace.tasks.get(task_id)
        if watch:
            for document in _versions(headrace, task_id):
                if not as_json:
                    note(_news(document))
    _say_task(document, as_json=as_json)


@app.command("list", epilog=EXIT_CODES)
def list_(
    *,
    state: Annotated[TaskState | None, typer.Option(help="Only tasks in this state.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks of this type.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only tasks of this queue.")] = None,
    limit: Annotated[int, typer.Option(help="Tasks on a page, up to 200.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the last page said to go on.")] = None,
    owner: OwnerOption = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List tasks, newest first.

    Example: headrace tasks list --state failed --limit 20
    """
    with opened(data_dir) as headrace:
        page = headrace.tasks.list(owner=owner, state=state, type=type_, queue=queue, limit=limit, cursor=cursor)
    if as_json:
        say_json({"tasks": [_document(task) for task in page.tasks], "next_cursor": page.next_cursor})
        return
    rows = [
        (t.public_id, t.type, t.state.value, f"{t.attempt}/{t.max_attempts}", t.queue, ago(t.created_at))
        for t in page.tasks
    ]
    say_table(("TASK", "TYPE", "STATE", "TRY", "QUEUE", "AGE"), rows, whole=(0, 2, 3))
    if page.next_cursor is not None:
        note(f"more: --cursor {page.next_cursor}")


@app.command(epilog=EXIT_CODES)
def cancel(task_id: TaskIdArgument, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Cancel a task: at once while it waits; a running one is asked to stop, and a finish already on its way still wins.

    Example: headrace tasks cancel task_0f3a5c7e9b1d2f4a6c8e0b1d3f5a7c9e
    """
    with acting(data_dir, "tasks cancel", task_id) as headrace:
        receipt = headrace.tasks.cancel(task_id)
    if as_json:
        say_json({"task": _document(receipt.task), "took_effect": receipt.took_effect})
    elif receipt.took_effect:
        typer.echo(f"task {receipt.task.public_id} is cancelled")
    else:
        typer.echo(f"task {receipt.task.public_id} is running; its worker was asked to stop")


@app.command(epilog=EXIT_CODES)
def retry(task_id: TaskIdArgument, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Run a failed, cancelled or timed-out task again, as a new task that names the old one.

    Example: headrace tasks retry task_0f3a5c7e9b1d2f4a6c8e0b1d3f5a7c9e --json
    """
    with acting(data_dir, "tasks retry", task_id) as headrace:
        task = headrace.tasks.retry(task_id)
    if as_json:
        say_json(_document(task))
    else:
        typer.echo(f"task {task.public_id} runs {task_id} again")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"run_at: {text!r} is not a time like 2026-01-31T12:00:00Z", field="run_at") from None


def _seconds(number: float) -> timedelta:
    try:
        return timedelta(seconds=number)
    except (OverflowError, ValueError):  # infinity or NaN
        raise InvalidRequest(f"deadline_s: {number} is not a number of seconds", field="deadline_s") from None


def _versions(headrace: App, task_id: str) -> Iterator[TaskDocument]:
    """The task as it is, then each time it has changed, up to the final state. Ends with the task's own deadline."""
    seen = -1
    while True:
        status = headrace.tasks.status(task_id)
        if status.stamp.version != seen:
            seen = status.stamp.version
            document: TaskDocument = load_json(status.body)
            yield document
        if status.is_final:
            return
        time.sleep(WATCH_S)


def _news(document: TaskDocument) -> str:
    words = [document["state"], f"attempt {document['attempt']} of {document['max_attempts']}"]
    percent, message = document["progress"]["percent"], document["progress"]["message"]
    if not TaskState(document["state"]).is_final:  # the last progress of a task that has ended says nothing any more
        words += [f"{percent:g} %"] if percent is not None else []
        words += [message] if message else []
    return ", ".join(words)


def _say_task(document: TaskDocument, *, as_json: bool) -> None:
    if as_json:
        say_json(document)
        return
    fields = [("task", document["id"]), ("type", document["type"]), ("state", _news(document))]
    fields.append(("queue", f"{document['queue']}, priority {document['priority']}"))
    plain = ("created_at", "run_at", "started_at", "finished_at", "retry_of")
    fields.extend((name, str(document[name])) for name in plain if document[name] is not None)
    if document["metadata"]:
        fields.append(("metadata", pretty(document["metadata"])))
    if document["error"] is not None:
        fields.append(("error", f"{document['error']['code']}: {document['error']['message']}"))
    if document["result"] is not None:
        fields.append(("result", pretty(document["result"])))
    say_fields(fields)


def _end_by(document: TaskDocument, timeout_s: float) -> None:
    state = TaskState(document["state"])
    if state is TaskState.COMPLETED:
        return
    if state.is_final:
        complain(f"task {document['id']} is {state}")
        raise typer.Exit(Exit.REFUSED)
    complain(str(Unavailable(f"task {document['id']} is still {state} after {timeout_s:g} s; is a worker running?")))
    raise typer.Exit(Exit.UNAVAILABLE)


def _document(task: Task) -> TaskDocument:
    document: TaskDocument = load_json(task.to_json())
    return document
