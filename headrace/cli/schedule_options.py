"""The options of `headrace schedules add` and `update`: None is what was not given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.schedules.model import Missed, Overlap

Name = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, `.`, `_` and `-`.")]
Cron = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Minute, hour, day of month, month, day of week: '30 2 * * *'.")
]
Every = Annotated[float | None, typer.Option("--every-s", help="Or a period, seconds; 1 at least.")]
Zone = Annotated[str | None, typer.Option(metavar="ZONE", help="IANA name, e.g. Europe/Berlin; UTC for a new one.")]
Jitter = Annotated[float | None, typer.Option("--jitter-s", help="Fire up to so many seconds later; 0 for a new one.")]
MissedOption = Annotated[
    Missed | None, typer.Option("--missed", help="Due times nobody fired in time; latest for a new one.")
]
OverlapOption = Annotated[
    Overlap | None, typer.Option("--overlap", help="A due time while the last run goes on; skip for a new one.")
]
Owner = Annotated[
    str | None,
    typer.Option("--owner", metavar="KEY_ID", help="Whose tasks they are; for a new one, the only enabled key."),
]
Input = Annotated[str | None, typer.Option("--input", metavar="JSON", help="The task's input; {} for a new one.")]
InputFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Read the input from a file; - is stdin.")]
Queue = Annotated[str | None, typer.Option(help="See `headrace queues list`; `default` for a new one.")]
Priority = Annotated[int | None, typer.Option(help="0 to 9; higher runs first. 5 for a new one.")]
Attempts = Annotated[int | None, typer.Option(help="Attempts before it fails; the type's for a new one.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds until it times out; the type's for a new one.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="An object, handed back unchanged.")]
