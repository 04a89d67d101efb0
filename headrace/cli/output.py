"""
What a command says: a table for people, one JSON document for programs, one line on stderr when it did not work.

With `--json` nothing but the document goes to stdout. Exit codes are part of the contract (`docs/operations.md`).
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.app import App, open_app
from core.errors import HeadraceError, Misconfigured, NotFound, Unavailable
from core.settings import load_settings


class Exit(IntEnum):
    """Why a command ended."""

    DONE = 0
    REFUSED = 1
    """The request was understood and refused, or a task that was waited for did not complete."""
    MISUSED = 2
    """Wrong usage or settings that cannot work; running it again cannot help."""
    UNAVAILABLE = 3
    """A server did not answer, or the wait was over; running it again later can help."""
    NOT_FOUND = 4


EXIT_CODES = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 unavailable, 4 not found."

WIDE = 160  # columns when nobody's terminal decides: no id is cut in a pipe

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Data directory of the servers to talk to.", show_default="HEADRACE_DATA_DIR or var"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def exit_code(error: HeadraceError) -> Exit:
    """By what the caller can do about it."""
    match error:
        case Misconfigured():
            return Exit.MISUSED
        case Unavailable():
            return Exit.UNAVAILABLE
        case NotFound():
            return Exit.NOT_FOUND
        case _:
            return Exit.REFUSED


@contextmanager
def told_errors() -> Generator[None]:
    """Our errors become one line on stderr and an exit code; anything else is a fault and keeps its traceback."""
    try:
        yield
    except HeadraceError as error:
        complain(str(error))
        raise typer.Exit(exit_code(error)) from None


@contextmanager
def opened(data_dir: Path | None = None) -> Generator[App]:
    """The application of the data directory (or of the URLs that are set), with errors told."""
    with told_errors(), open_app(load_settings(data_dir=data_dir)) as app:
        yield app


def complain(message: str) -> None:
    typer.echo(f"headrace: {one_line(message)}", err=True)


def note(message: str) -> None:
    """For people only: stdout stays for what was asked."""
    typer.echo(one_line(message), err=True)


def say_json(document: object) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


def say_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Sequence[int] = (0,)) -> None:
    """
    Args:
        whole: columns that are never wrapped, e.g. ids, so that they can be copied.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, no_wrap=place in whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console().print(table)


def say_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line; a value may have lines of its own."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        first, *rest = value.split("\n")
        typer.echo(f"{name:<{width}}  {one_line(first)}".rstrip())
        for line in rest:
            typer.echo(f"{'':<{width}}  {one_line(line)}")


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def one_line(text: str) -> str:
    """Control characters are shown, not obeyed: a task's text must not move a person's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def ago(moment: datetime | str | None, *, now: datetime | None = None) -> str:
    """`3 s`, `5 min`, `2 h`, `4 d`: how long ago, or `in 5 min`."""
    if moment is None:
        return "-"
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    passed = (now or datetime.now(UTC)) - then
    return f"in {_rounded(-passed)}" if passed < timedelta(seconds=-1) else _rounded(passed)


def _rounded(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
