"""`headrace ip-filters`: which addresses may come in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from core.access.addresses.ip_filter_table import IpFilter
from core.access.addresses.ip_rules import Action
from core.access.addresses.networks import parse_address
from core.connections import database_errors
from headrace.cli.acts import acted
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, note, opened, say_fields, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, add, change, remove and try IP filters. Running web processes follow within five seconds.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `headrace ip-filters list` shows it.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY_ID", help="Only for this virtual key.")]
Note = Annotated[str | None, typer.Option("--note", help="For people.")]


@app.command("list", epilog=EXIT_CODES)
def list_(
    *,
    key_id: Key = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Rules on a page.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the last page said to go on.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List the rules, oldest first. A deny rule that matches wins; where there are allow rules, one must match.

    Example: headrace ip-filters list
    """
    with opened(data_dir) as headrace, database_errors("the rules were not read"):
        page = headrace.access.ip_filters.page(limit=limit, cursor=cursor, key_id=key_id)
    if as_json:
        say_json({"ip_filters": [rule.to_document() for rule in page.filters], "next_cursor": page.next_cursor})
        return
    rows = [
        (
            str(rule.id),
            rule.action.value,
            str(rule.network),
            rule.key_id or "everybody",
            "enabled" if rule.enabled else "disabled",
            rule.note,
        )
        for rule in page.filters
    ]
    say_table(("ID", "ACTION", "CIDR", "FOR", "STATE", "NOTE"), rows)
    if page.next_cursor is not None:
        note(f"more: --cursor {page.next_cursor}")


@app.command(epilog=EXIT_CODES)
def add(
    action: Annotated[Action, typer.Argument(metavar="allow|deny")],
    cidr: Annotated[str, typer.Argument(metavar="CIDR", help="An address or network, IPv4 or IPv6.")],
    *,
    key_id: Key = None,
    note_text: Note = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Not in force yet.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Add a rule. The first enabled allow rule shuts out everybody whom it does not name: try it with `check` first.

    Example: headrace ip-filters add deny 203.0.113.0/24 --note 'scrapers'
    """
    with (
        opened(data_dir) as headrace,
        acted(headrace, "ip-filters add") as act,
        database_errors("it is not known whether the rule was added"),
    ):
        rule = headrace.access.ip_filters.create(
            action, cidr, key_id=key_id, enabled=not disabled, note=note_text or ""
        )
        act.subject = str(rule.id)
    _say(rule, as_json)


@app.command(epilog=EXIT_CODES)
def update(
    filter_id: Id,
    *,
    action: Annotated[Action | None, typer.Option("--action", help="What it does.")] = None,
    cidr: Annotated[str | None, typer.Option("--cidr", help="Whom it names.")] = None,
    key_id: Key = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Not only for one key any more.")] = False,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it is in force.")] = None,
    note_text: Note = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Change what is given; the rest stays.

    Example: headrace ip-filters update 0199c1f0-7a50-7cc1-a42b-1b2c3d4e5f60 --disable
    """
    if everybody and key_id is not None:
        raise typer.BadParameter("give --key or --everybody, not both")
    given = {"action": action, "cidr": cidr, "key_id": key_id, "enabled": enabled, "note": note_text}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if everybody:
        changes["key_id"] = None
    with (
        opened(data_dir) as headrace,
        acted(headrace, "ip-filters update", filter_id),
        database_errors("it is not known whether the rule was changed"),
    ):
        rule = headrace.access.ip_filters.update(filter_id, **changes)
    _say(rule, as_json)


@app.command(epilog=EXIT_CODES)
def remove(filter_id: Id, data_dir: DataDir = None) -> None:
    """
    Remove a rule.

    Example: headrace ip-filters remove 0199c1f0-7a50-7cc1-a42b-1b2c3d4e5f60
    """
    with (
        opened(data_dir) as headrace,
        acted(headrace, "ip-filters remove", filter_id),
        database_errors("it is not known whether the rule was removed"),
    ):
        headrace.access.ip_filters.delete(filter_id)
    typer.echo(f"rule {filter_id} is removed")


@app.command(epilog=EXIT_CODES)
def check(
    ip: Annotated[str, typer.Argument(metavar="IP", help="An address.")],
    *,
    key_id: Key = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    What the door would say of an address, by the rules of this moment.

    Example: headrace ip-filters check 203.0.113.7
    """
    with opened(data_dir) as headrace, database_errors("the rules were not read"):
        verdict = headrace.access.ip_filters.check_now(parse_address(ip, field="ip"), key_id)
    if as_json:
        say_json(verdict.to_document())
        return
    rule = "no rule" if verdict.rule is None else f"rule {verdict.rule.id} ({verdict.rule.network})"
    if verdict.scope is not None and verdict.rule is None:
        rule = "there are allow rules, and none of them matches"
    typer.echo(f"{ip} is {'allowed' if verdict.allowed else 'refused'}: {rule}")


def _say(rule: IpFilter, as_json: bool) -> None:
    if as_json:
        say_json(rule.to_document())
        return
    say_fields(
        [
            ("id", str(rule.id)),
            ("action", rule.action.value),
            ("cidr", str(rule.network)),
            ("for", rule.key_id or "everybody"),
            ("state", "enabled" if rule.enabled else "disabled"),
            ("note", rule.note or "-"),
        ]
    )
