"""`headrace keys`: virtual keys, which callers of the API show as their bearer token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from core.access.keys.documents import key_document, pepper_document
from core.access.keys.model import VirtualKey
from core.access.keys.pages import MAX_PAGE
from core.access.keys.virtual_keys import NewVirtualKey
from core.connections import database_errors
from core.events.access import Limits
from headrace.cli.acts import acted, acting
from headrace.cli.key_options import (
    Concurrency,
    Expires,
    Group,
    KeyId,
    Models,
    Rpd,
    Rpm,
    Tpm,
    Types,
    expiry,
    overlap,
)
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, ago, note, opened, say_fields, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Create, list, change, rotate, disable and delete virtual keys.",
)

CLEARABLE = ("group", "expires", "type", "model", "rpm", "rpd", "tpm", "concurrency")
_FIELDS = {"expires": "expires_at", "type": "allowed_types", "model": "allowed_models"}


@app.command(epilog=EXIT_CODES)
def create(
    *,
    name: Annotated[str, typer.Option("--name", help="Whose key it is, for people.")],
    group: Group = None,
    expires: Expires = None,
    types: Types = None,
    models: Models = None,
    rpm: Rpm = None,
    rpd: Rpd = None,
    tpm: Tpm = None,
    concurrency: Concurrency = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Create a key and show it, once: only its hash is kept.

    Example: headrace keys create --name billing --expires 90d --type 'chat.*' --rpm 60
    """
    with opened(data_dir) as headrace, acted(headrace, "keys create") as act, database_errors("no key was created"):
        new = headrace.keys.create(
            name,
            group=group,
            expires_at=expiry(expires),
            allowed_types=types or (),
            allowed_models=models or (),
            limits=Limits(rpm, rpd, tpm, concurrency),
        )
        act.subject = new.key_id
    _say_new(new, as_json=as_json)


@app.command("list", epilog=EXIT_CODES)
def list_(
    *,
    group: Annotated[str | None, typer.Option("--group", help="Only the keys of this group.")] = None,
    newest: Annotated[bool, typer.Option("--newest", help="Newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="The most keys to show.")] = MAX_PAGE,
    cursor: Annotated[str | None, typer.Option(help="From the page before.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List keys, oldest first, and which peppers are still needed. Their clear form is not kept anywhere.

    Example: headrace keys list --group team-a
    """
    with opened(data_dir) as headrace, database_errors("the keys were not read"):
        page = headrace.keys.page(limit=limit, cursor=cursor, group=group, newest_first=newest)
        versions = headrace.keys.pepper_versions()
        known = headrace.access.peppers.versions
    if as_json:
        say_json(
            {
                "keys": [_document(key) for key in page.keys],
                "next_cursor": page.next_cursor,
                "pepper_versions": pepper_document(versions),
            }
        )
        return
    rows = [(k.key_id, k.name, k.group or "-", ago(k.created_at), _state(k), _limits(k)) for k in page.keys]
    say_table(("KEY ID", "NAME", "GROUP", "AGE", "STATE", "LIMITS"), rows)
    if page.next_cursor is not None:
        note(f"there are more: --cursor {page.next_cursor}")
    _note_peppers(versions, known)


@app.command(epilog=EXIT_CODES)
def show(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Show what a key may do.

    Example: headrace keys show 3fKq09ZcVb1x
    """
    with opened(data_dir) as headrace, database_errors("the key was not read"):
        key = headrace.keys.get(key_id)
    if as_json:
        say_json(_document(key))
        return
    say_fields(
        [
            ("key", key.key_id),
            ("name", key.name),
            ("group", key.group or "-"),
            ("state", _state(key)),
            ("expires", "never" if key.expires_at is None else key.expires_at.isoformat(timespec="seconds")),
            ("types", ", ".join(key.allowed_types) or "all"),
            ("models", ", ".join(key.allowed_models) or "all"),
            ("limits", _limits(key)),
            ("created", f"{ago(key.created_at)} ago"),
            ("version", str(key.version)),
        ]
    )


@app.command(epilog=EXIT_CODES)
def update(
    *,
    key_id: KeyId,
    name: Annotated[str | None, typer.Option("--name", help="Whose key it is, for people.")] = None,
    group: Group = None,
    expires: Expires = None,
    types: Types = None,
    models: Models = None,
    rpm: Rpm = None,
    rpd: Rpd = None,
    tpm: Tpm = None,
    concurrency: Concurrency = None,
    clear: Annotated[
        list[str] | None,
        typer.Option("--clear", metavar="FIELD", help=f"Take away: {', '.join(CLEARABLE)}; repeat it."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Change what is given, and leave the rest. It counts within a moment, in every process.

    Example: headrace keys update 3fKq09ZcVb1x --rpm 120 --clear expires
    """
    given: dict[str, Any] = {
        "name": name,
        "group": group,
        "expires": expires,
        "type": types,
        "model": models,
        "rpm": rpm,
        "rpd": rpd,
        "tpm": tpm,
        "concurrency": concurrency,
    }
    changes = {field: value for field, value in given.items() if value is not None and value != []}
    for field in clear or ():
        if field not in CLEARABLE:
            raise typer.BadParameter(f"--clear {field}: there are {', '.join(CLEARABLE)}")
        if field in changes:
            raise typer.BadParameter(f"--{field} and --clear {field}: give one of them")
        changes[field] = None
    if not changes:
        raise typer.BadParameter("say what to change; `headrace keys update --help` shows the options")
    with acting(data_dir, "keys update", key_id) as headrace, database_errors("the key was not changed"):
        if changes.get("expires") is not None:
            changes["expires"] = expiry(expires)
        key = headrace.keys.update(key_id, **{_FIELDS.get(field, field): value for field, value in changes.items()})
    _say(key, f"is changed: {_state(key)}, {_limits(key)}", as_json=as_json)


@app.command(epilog=EXIT_CODES)
def disable(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Refuse a key from now on. Its tasks go on; `headrace keys enable` lets it in again.

    Example: headrace keys disable 3fKq09ZcVb1x
    """
    with acting(data_dir, "keys disable", key_id) as headrace, database_errors("the key was not disabled"):
        key = headrace.keys.disable(key_id)
    _say(key, "is disabled", as_json=as_json)


@app.command(epilog=EXIT_CODES)
def enable(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Let a disabled key in again.

    Example: headrace keys enable 3fKq09ZcVb1x
    """
    with acting(data_dir, "keys enable", key_id) as headrace, database_errors("the key was not enabled"):
        key = headrace.keys.enable(key_id)
    _say(key, f"is {_state(key)}", as_json=as_json)


@app.command(epilog=EXIT_CODES)
def rotate(
    key_id: KeyId,
    overlap_: Annotated[
        str, typer.Option("--overlap", help="How long the secret so far works on: 24h, 30min, 7d; 0: not at all.")
    ] = "24h",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Give a key a new secret and show it, once. The key's id, tasks and rights stay.

    Example: headrace keys rotate 3fKq09ZcVb1x --overlap 2h
    """
    with (
        acting(data_dir, "keys rotate", key_id) as headrace,
        database_errors("it is not known whether the key was rotated"),
    ):
        new = headrace.keys.rotate(key_id, overlap(overlap_))
    _say_new(new, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def delete(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Refuse a key for good and list it no more. Its tasks stay.

    Example: headrace keys delete 3fKq09ZcVb1x
    """
    with acting(data_dir, "keys delete", key_id) as headrace, database_errors("the key was not deleted"):
        headrace.keys.delete(key_id)
    if as_json:
        say_json({"key_id": key_id, "deleted": True})
    else:
        typer.echo(f"key {key_id} is deleted")


def _say_new(new: NewVirtualKey, *, as_json: bool) -> None:
    if as_json:
        say_json({**_document(new.key), "key": new.clear_key})
        return
    typer.echo(new.clear_key)
    note(f"This is the only time the key is shown. Its id, for lists and --owner: {new.key_id}")


def _say(key: VirtualKey, what: str, *, as_json: bool) -> None:
    if as_json:
        say_json(_document(key))
    else:
        typer.echo(f"key {key.key_id} ({key.name}) {what}")


def _document(key: VirtualKey) -> dict[str, object]:
    """As over HTTP, and `key_id`, the same as `id`; `disabled_at` is null while the key works."""
    return {"key_id": key.key_id, **key_document(key), "disabled_at": key.disabled_at}


def _state(key: VirtualKey) -> str:
    if not key.is_enabled:
        return "disabled"
    if key.has_expired(datetime.now(UTC)):
        return "expired"
    return "enabled" if key.expires_at is None else f"enabled, expires {ago(key.expires_at)}"


def _limits(key: VirtualKey) -> str:
    limits = key.limits
    named = (("rpm", limits.rpm), ("rpd", limits.rpd), ("tpm", limits.tpm), ("concurrency", limits.concurrency))
    return ", ".join(f"{name} {value}" for name, value in named if value is not None) or "no limits"


def _note_peppers(versions: dict[int, int], known: list[int]) -> None:
    """Only where there is something to say: more than one pepper is in use, or known."""
    if len(known) > 1 or set(versions) - set(known):
        used = ", ".join(f"{count} of pepper {version}" for version, count in versions.items()) or "none"
        note(f"secrets by pepper: {used}; the settings know {', '.join(map(str, known))}")
        for version in known[1:]:
            if version not in versions:
                note(f"nothing needs pepper {version} any more: it may leave HEADRACE_KEY_PEPPER")
        for version in sorted(set(versions) - set(known)):
            note(f"keys of pepper {version} are refused: it is not in HEADRACE_KEY_PEPPER")
