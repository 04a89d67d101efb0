"""Progress of the batch: a live table in a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from core.tasks.model import TaskState
from headrace.cli.output import one_line
from headrace.demo.following import Followed

_COLOURS = {
    TaskState.PENDING: "yellow",
    TaskState.PROCESSING: "cyan",
    TaskState.COMPLETED: "green",
    TaskState.FAILED: "red",
    TaskState.CANCELLED: "magenta",
    TaskState.TIMED_OUT: "red",
}
_FRAME = 6  # lines around the rows: counts, headings, the line of what is left out


class View(Protocol):
    def show(self, tasks: Sequence[Followed]) -> None:
        """Show the batch as it is now."""
        ...


@contextmanager
def opened_view(console: Console) -> Generator[View]:
    if not console.is_terminal:
        yield Lines()
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveTable(console, live)


class Lines:
    """One line for each task whose state, attempt or message has changed."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last: dict[str, str] = {}

    def show(self, tasks: Sequence[Followed]) -> None:
        for followed in tasks:
            now = f"{followed.state.value}, attempt {followed.task['attempt']}"
            if self._last.get(followed.task["id"]) != now:
                self._last[followed.task["id"]] = now
                typer.echo(f"{time.monotonic() - self._began:5.1f} s  {followed.announced.label:<24} {now}")


class LiveTable:
    """Counts of states, and a row a task; when the terminal is too short, final tasks are left out first."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live

    def show(self, tasks: Sequence[Followed]) -> None:
        room = max(3, self._console.height - _FRAME)
        shown = list(tasks)
        if len(shown) > room:
            shown = sorted(tasks, key=lambda followed: followed.state.is_final)[:room]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("TASK", "TYPE", "STATE", "TRY", "PROGRESS"):
            table.add_column(heading, no_wrap=True)
        for followed in shown:
            table.add_row(*_row(followed))
        parts: list[Text | Table] = [counts(tasks), Text(), table]
        if len(shown) < len(tasks):
            parts.append(Text(f"and {len(tasks) - len(shown)} more", style="dim"))
        self._live.update(Group(*parts), refresh=True)


def counts(tasks: Sequence[Followed]) -> Text:
    found = Counter(followed.state for followed in tasks)
    line = Text()
    for state in TaskState:
        if found[state]:
            line.append(f"{found[state]} {state.value}   ", style=_COLOURS[state])
    return line


def state_text(state: TaskState) -> Text:
    return Text(state.value, style=_COLOURS[state])


def _row(followed: Followed) -> tuple[Text, Text, Text, Text, Text]:
    task = followed.task
    return (
        Text(followed.announced.label),
        Text(task["type"], style="dim"),
        state_text(followed.state),
        Text(f"{task['attempt']}/{task['max_attempts']}"),
        Text(_progress(followed)),
    )


def _progress(followed: Followed) -> str:
    percent, message = followed.task["progress"]["percent"], followed.task["progress"]["message"]
    words = [f"{percent:.0f} %"] if percent is not None else []
    return ", ".join([*words, one_line(message)] if message else words)
