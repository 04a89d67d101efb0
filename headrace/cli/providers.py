"""`headrace providers`: who the workers call for chat, embeddings, images and videos."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from core.connections import database_errors
from core.providers.model import DEFAULT_PRIORITY, KeySource, NewProvider, ProviderChange, ProviderRow
from core.providers.trial import Trial, try_provider
from core.sealing import Unsealable
from headrace.cli.acts import acting
from headrace.cli.output import (
    EXIT_CODES,
    AsJson,
    DataDir,
    Exit,
    ago,
    complain,
    note,
    opened,
    say_fields,
    say_json,
    say_table,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Add, list, test, change and remove providers. Running workers follow within five seconds.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `headrace providers list` shows it.")]
AskKey = Annotated[
    bool, typer.Option("--api-key", help="Ask for the API key, or read it from stdin; kept encrypted, never shown.")
]
KeyVariable = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="VARIABLE", help="Environment variable of the workers that holds the key."),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="May be asked for this model (`gpt-*`: all that begin so); repeat. None: for all."),
]


@app.command(epilog=EXIT_CODES)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, `.`, `_` and `-`.")],
    base_url: Annotated[str, typer.Option("--url", help="Base URL, e.g. https://host/v1.")],
    *,
    ask_key: AskKey = False,
    api_key_env: KeyVariable = None,
    priority: Annotated[int, typer.Option("--priority", help="Lower is asked first.")] = DEFAULT_PRIORITY,
    models: Models = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not ask it yet.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Add a provider: any server that speaks OpenAI's API.

    Example: headrace providers add openai --url https://api.example/v1 --api-key --model 'gpt-*'
    """
    api_key = _asked_key() if ask_key else None
    with acting(data_dir, "providers add", name) as headrace, database_errors("no provider was added"):
        row = headrace.providers.add(
            NewProvider(
                name=name,
                base_url=base_url,
                api_key=api_key,
                api_key_env=api_key_env,
                enabled=not disabled,
                priority=priority,
                models=tuple(models or ()),
            )
        )
    _say(row, as_json)
    note(f"Try it: headrace providers test {row.name}")


@app.command("list", epilog=EXIT_CODES)
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    List all providers, in the order in which they are asked.

    Example: headrace providers list
    """
    with opened(data_dir) as headrace, database_errors("the providers were not read"):
        rows = headrace.providers.list()
    if as_json:
        say_json({"providers": [row.to_document() for row in rows]})
        return
    say_table(
        ("NAME", "PRIORITY", "STATE", "URL", "KEY", "MODELS", "DISCOVERED"),
        [
            (
                row.name,
                str(row.priority),
                "enabled" if row.enabled else "disabled",
                row.base_url,
                _key(row),
                ", ".join(row.models) or "all",
                ago(row.discovered_at),
            )
            for row in rows
        ],
    )


@app.command(epilog=EXIT_CODES)
def show(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Show one provider. Its key is never shown.

    Example: headrace providers show openai
    """
    with opened(data_dir) as headrace, database_errors("the provider was not read"):
        row = headrace.providers.get(name)
    _say(row, as_json)


@app.command("test", epilog=EXIT_CODES)
def try_(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    List its models with its key: never a paid call. Exits 1 when that fails.

    Example: headrace providers test openai
    """
    with opened(data_dir) as headrace, database_errors("the provider was not read"):
        row = headrace.providers.get(name)
        try:
            key = headrace.providers.api_key(row)
        except Unsealable as error:
            trial = Trial(0, code="provider_not_configured", error=f"its API key cannot be used: {error}")
        else:
            trial = asyncio.run(try_provider(row.base_url, key))
    if as_json:
        say_json(trial.to_document(name))
    elif trial.is_good:
        typer.echo(f"provider {name} answered in {trial.latency_ms} ms and lists {trial.models} models")
    else:
        complain(f"provider {name}: {trial.error}")
    if not trial.is_good:
        raise typer.Exit(Exit.REFUSED)


@app.command(epilog=EXIT_CODES)
def update(
    name: Name,
    *,
    base_url: Annotated[
        str | None, typer.Option("--url", help="Base URL; another host needs its key given again.")
    ] = None,
    ask_key: AskKey = False,
    api_key_env: KeyVariable = None,
    no_key: Annotated[bool, typer.Option("--no-api-key", help="Forget the key; call it without one.")] = False,
    priority: Annotated[int | None, typer.Option("--priority", help="Lower is asked first.")] = None,
    models: Models = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="It may be asked for every model.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Change what is given; the rest stays.

    Example: headrace providers update openai --priority 10 --model 'gpt-*'
    """
    change = ProviderChange(
        base_url=base_url,
        api_key=_asked_key() if ask_key else None,
        api_key_env=api_key_env,
        no_key=no_key,
        priority=priority,
        models=() if all_models else tuple(models) if models else None,
    )
    _changed(name, change, as_json, data_dir)


@app.command(epilog=EXIT_CODES)
def enable(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Ask this provider again.

    Example: headrace providers enable openai
    """
    _changed(name, ProviderChange(enabled=True), as_json, data_dir)


@app.command(epilog=EXIT_CODES)
def disable(name: Name, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Send this provider no new work. Videos it renders already are still fetched.

    Example: headrace providers disable openai
    """
    _changed(name, ProviderChange(enabled=False), as_json, data_dir)


@app.command(epilog=EXIT_CODES)
def remove(name: Name, data_dir: DataDir = None) -> None:
    """
    Forget a provider, its key and what was discovered of it. Videos it renders are lost; `disable` keeps them.

    Example: headrace providers remove openai
    """
    with acting(data_dir, "providers remove", name) as headrace, database_errors("the provider was not removed"):
        headrace.providers.remove(name)
    typer.echo(f"provider {name} is removed")


@app.command(epilog=EXIT_CODES)
def reseal(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Encrypt all stored API keys anew with the first HEADRACE_ENCRYPTION_KEY, so that the others may go.

    Example: headrace providers reseal
    """
    with acting(data_dir, "providers reseal") as headrace, database_errors("no key was sealed anew"):
        count = headrace.providers.reseal()
    if as_json:
        say_json({"resealed": count})
        return
    typer.echo(f"{count} API keys are sealed with the first key; older keys may be taken out of the setting")


def _changed(name: str, change: ProviderChange, as_json: AsJson, data_dir: DataDir) -> None:
    with (
        acting(data_dir, "providers update", name) as headrace,
        database_errors("it is not known whether the provider was changed"),
    ):
        row = headrace.providers.update(name, change)
    _say(row, as_json)


def _asked_key() -> str:
    """From the terminal without echo, or the first line of stdin: never from the command line, which others see."""
    if sys.stdin.isatty():
        return str(typer.prompt("API key", hide_input=True, err=True)).strip()
    return sys.stdin.readline().strip()


def _say(row: ProviderRow, as_json: bool) -> None:
    if as_json:
        say_json(row.to_document())
        return
    say_fields(
        [
            ("name", row.name),
            ("url", row.base_url),
            ("api key", _key(row)),
            ("state", "enabled" if row.enabled else "disabled"),
            ("priority", str(row.priority)),
            ("models", "\n".join(row.models) or "all"),
            ("from", "HEADRACE_PROVIDER_URL" if row.source == "settings" else f"its row, version {row.version}"),
            ("discovered", ago(row.discovered_at)),
            ("last error", row.discovery_error or "-"),
        ]
    )


def _key(row: ProviderRow) -> str:
    match row.key_source:
        case KeySource.NONE:
            return "none"
        case KeySource.SEALED:
            return "stored, encrypted"
        case KeySource.ENVIRONMENT:
            return f"${row.api_key_env}"
        case KeySource.SETTINGS:
            return "HEADRACE_PROVIDER_API_KEY"
