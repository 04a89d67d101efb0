"""`headrace bans`: who is shut out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from core.access.addresses.ban_table import BanRow
from core.connections import database_errors
from headrace.cli.acts import acted
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, ago, note, opened, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, add and lift bans. Running web processes follow within five seconds.",
)

Ip = Annotated[
    str,
    typer.Argument(metavar="IP", help="An address, or an IPv6 /64, /56 or /48; an IPv6 address stands for its /64."),
]


@app.command("list", epilog=EXIT_CODES)
def list_(
    *,
    all_of_them: Annotated[bool, typer.Option("--all", help="Also those that ended within seven days.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Bans on a page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the last page said to go on.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List the bans in force, by address.

    Example: headrace bans list
    """
    with opened(data_dir) as headrace, database_errors("the bans were not read"):
        page = headrace.access.bans.page(limit=limit, cursor=cursor, all_of_them=all_of_them)
    if as_json:
        say_json({"bans": [row.to_document() for row in page.bans], "next_cursor": page.next_cursor})
        return
    rows = [
        (row.network, ago(row.until_at) if row.is_active else "over", str(row.level), str(row.failures), row.reason)
        for row in page.bans
    ]
    say_table(("NETWORK", "ENDS", "LEVEL", "FAILURES", "REASON"), rows)
    if page.next_cursor is not None:
        note(f"more: --cursor {page.next_cursor}")


@app.command(epilog=EXIT_CODES)
def add(
    ip: Ip,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")],
    *,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Its end, e.g. 2026-01-31T12:00:00Z.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=87_600, help="Its length, without --until.")] = 24,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Shut an address out, in the place of any other ban of it.

    Example: headrace bans add 203.0.113.7 --reason 'scrapes' --hours 48
    """
    end = datetime.now(UTC) + timedelta(hours=hours) if until is None else _time(until)
    with (
        opened(data_dir) as headrace,
        acted(headrace, "bans add", ip),
        database_errors("it is not known whether the ban was added"),
    ):
        row = headrace.access.bans.add(ip, reason, end)
    _say(row, as_json)


@app.command(epilog=EXIT_CODES)
def lift(ip: Ip, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    End a ban now. The next one of that address is longer all the same.

    Example: headrace bans lift 203.0.113.7
    """
    with (
        opened(data_dir) as headrace,
        acted(headrace, "bans lift", ip),
        database_errors("it is not known whether the ban was lifted"),
    ):
        row = headrace.access.bans.lift(ip)
    _say(row, as_json)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--until: {text!r} is not a time like 2026-01-31T12:00:00Z") from None


def _say(row: BanRow, as_json: bool) -> None:
    if as_json:
        say_json(row.to_document())
    elif row.is_active:
        typer.echo(f"{row.network} is banned until {row.until_at:%Y-%m-%d %H:%M:%S} UTC")
    else:
        typer.echo(f"{row.network} is not banned any more")
