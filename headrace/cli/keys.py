"""`headrace keys`: virtual keys, which callers of the API show as their bearer token."""

from __future__ import annotations

from typing import Annotated

import typer

from core.access.model import VirtualKey
from core.connections import database_errors
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, ago, note, opened, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Create, list and disable virtual keys.",
)

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The 12 characters after `hr_` in the key.")]


@app.command(epilog=EXIT_CODES)
def create(
    name: Annotated[str, typer.Option("--name", help="Whose key it is, for people.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Create a key and show it, once: only its hash is kept.

    Example: headrace keys create --name billing
    """
    with opened(data_dir) as headrace, database_errors("no key was created"):
        key = headrace.keys.create(name)
    if as_json:
        say_json({"key_id": key.key_id, "name": key.name, "key": key.clear_key})
        return
    typer.echo(key.clear_key)
    note(f"This is the only time the key is shown. Its id, for lists and --owner: {key.key_id}")


@app.command("list", epilog=EXIT_CODES)
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    List all keys, oldest first. Their clear form is not kept anywhere.

    Example: headrace keys list
    """
    with opened(data_dir) as headrace, database_errors("the keys were not read"):
        keys = headrace.keys.list()
    if as_json:
        say_json({"keys": [_document(key) for key in keys]})
        return
    rows = [(k.key_id, k.name, ago(k.created_at), "disabled" if k.disabled_at else "enabled") for k in keys]
    say_table(("KEY ID", "NAME", "AGE", "STATE"), rows)


@app.command(epilog=EXIT_CODES)
def disable(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Refuse a key from now on. It cannot be enabled again; its tasks go on.

    Example: headrace keys disable 3fKq09ZcVb1x
    """
    with opened(data_dir) as headrace, database_errors("the key was not disabled"):
        key = headrace.keys.disable(key_id)
    if as_json:
        say_json(_document(key))
        return
    typer.echo(f"key {key.key_id} ({key.name}) is disabled")


def _document(key: VirtualKey) -> dict[str, object]:
    """`{"key_id", "name", "created_at", "disabled_at"}`; `disabled_at` is null while the key works."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "created_at": key.created_at,
        "disabled_at": key.disabled_at,
    }
