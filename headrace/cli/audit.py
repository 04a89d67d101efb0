"""`headrace audit`: what operators did."""

from __future__ import annotations

from typing import Annotated

import typer

from core.connections import database_errors
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, ago, note, opened, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Show what operators did, by the admin API and by commands.",
)


@app.callback()
def group() -> None:
    """Keeps `list` a word of its own while it is the only command."""


@app.command("list", epilog=EXIT_CODES)
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Acts on a page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the last page said to go on.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List what was done, newest first. An act without outcome: its process died meanwhile, it may have been done.

    Example: headrace audit list --limit 20
    """
    with opened(data_dir) as headrace, database_errors("the audit log was not read"):
        page = headrace.access.audit.page(limit=limit, cursor=cursor)
    if as_json:
        say_json({"acts": [act.to_document() for act in page.acts], "next_cursor": page.next_cursor})
        return
    rows = [
        (ago(act.at), act.actor, act.address or "-", act.action, act.subject or "-", act.outcome or "not known")
        for act in page.acts
    ]
    say_table(("AGE", "ACTOR", "ADDRESS", "ACTION", "SUBJECT", "OUTCOME"), rows, whole=(0, 1))
    if page.next_cursor is not None:
        note(f"more: --cursor {page.next_cursor}")
