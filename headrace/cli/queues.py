"""`headrace queues`: the queues that producers may name. Workers add those they are started with (`--queues`)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import sqlalchemy as sa
import typer

from core.app import App
from core.connections import autocommit, database_errors
from core.tasks import queues
from headrace.cli.acts import acting
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, opened, say_json, say_table

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="List and add queues."
)


@app.command("list", epilog=EXIT_CODES)
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    List all queues, with the slots of a worker process they have.

    Example: headrace queues list --json
    """
    with opened(data_dir) as headrace, _connection(headrace, "the queues were not read") as connection:
        found = queues.load(connection)
    if as_json:
        say_json({"queues": [_document(queue) for queue in found]})
        return
    rows = [(q.name, str(q.reserved_slots), "all" if q.max_slots is None else str(q.max_slots)) for q in found]
    say_table(("QUEUE", "RESERVED SLOTS", "MOST SLOTS"), rows)


@app.command(epilog=EXIT_CODES)
def add(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Lower-case letters, digits, - and _.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Make sure that queues exist; adding one again changes nothing.

    Workers that serve all queues learn of it within a heartbeat (HEADRACE_HEARTBEAT_S, 10 s).

    Example: headrace queues add nightly
    """
    with (
        acting(data_dir, "queues add", ", ".join(names)) as headrace,
        _connection(headrace, "no queue was added") as connection,
    ):
        queues.add(connection, names)
        found = [queue for queue in queues.load(connection) if queue.name in names]
    if as_json:
        say_json({"queues": [_document(queue) for queue in found]})
        return
    for queue in found:
        typer.echo(
            f"queue {queue.name} is there; workers without --queues serve it within a heartbeat (10 s by default)"
        )


@contextmanager
def _connection(headrace: App, otherwise: str) -> Generator[sa.Connection]:
    with database_errors(otherwise), autocommit(headrace.engine).connect() as connection:
        yield connection


def _document(queue: queues.Queue) -> dict[str, object]:
    """`{"name", "reserved_slots", "max_slots"}`; `max_slots` null: all threads of a worker process."""
    return {"name": queue.name, "reserved_slots": queue.reserved_slots, "max_slots": queue.max_slots}
