"""`headrace models`: what the providers list, what each model can do, and what operators say about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from core.capabilities import store
from core.capabilities.documents import discovery_documents
from core.capabilities.model import Ability, Answer
from core.capabilities.overrides import EVERY_PROVIDER
from core.capabilities.snapshot import Snapshot, model_document
from core.connections import autocommit, database_errors
from core.errors import NotFound
from headrace.cli.acts import acting
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, ago, note, opened, pretty, say_fields, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List models and what they can do, ask providers anew, and correct what was discovered.",
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its id, slashes and all.")]
AbilityWord = Annotated[Ability, typer.Argument(metavar="ABILITY", help=", ".join(Ability))]
ProviderName = Annotated[str | None, typer.Option("--provider", help="Only at this one; without it at every one.")]


@app.command("list", epilog=EXIT_CODES)
def list_(
    provider: Annotated[str | None, typer.Option("--provider", help="Only what this one lists.")] = None,
    gone: Annotated[bool, typer.Option("--gone", help="Those that went from their provider's list instead.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    List the models that the enabled providers list, and how old the lists are.

    Example: headrace models list --provider openai
    """
    with opened(data_dir) as headrace, database_errors("the models were not read"):
        if gone:
            with autocommit(headrace.engine).connect() as connection:
                went = [entry for entry in store.gone(connection) if provider in (None, entry[0])]
            documents = [{"provider": at, "model": model, "last_seen_at": seen} for at, model, seen in went]
            if as_json:
                say_json({"gone": documents})
                return
            say_table(("MODEL", "PROVIDER", "LAST LISTED"), [(model, at, ago(seen)) for at, model, seen in went])
            return
        if provider is not None:
            headrace.providers.get(provider)
        snapshot = headrace.capabilities.refresh()
    models = [
        (model_document(snapshot, name, served), [row.name for row, _ in served])
        for name, served in snapshot.models()
        if provider is None or provider in [row.name for row, _ in served]
    ]
    if as_json:
        listed = [{**document, "providers": at} for document, at in models]
        say_json({"models": listed, "providers": discovery_documents(snapshot)})
        return
    rows = [
        (str(document["id"]), _abilities(document), _shown(document["context_tokens"]), ", ".join(at))
        for document, at in models
    ]
    say_table(("MODEL", "CAN", "CONTEXT", "PROVIDERS"), rows)
    _tell_providers(snapshot)


@app.command(epilog=EXIT_CODES)
def show(model: Model, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Show what is known of one model, with sources and ages.

    Example: headrace models show gpt-5
    """
    with opened(data_dir) as headrace, database_errors("the model was not read"):
        snapshot = headrace.capabilities.refresh()
        served = snapshot.listed(model)
        if not served:
            raise NotFound(f"no provider lists the model {model}; `headrace models list` shows those there are")
    document = {**model_document(snapshot, model, served), "providers": [row.name for row, _ in served]}
    if as_json:
        say_json(document)
        return
    answers: Any = document["capabilities"]
    says = [f"{ability:<11}{_judgement(found)}" for ability, found in answers.items()]
    say_fields(
        [
            ("model", model),
            ("providers", ", ".join(row.name for row, _ in served)),
            ("abilities", "\n".join(says)),
            ("context", _shown(document["context_tokens"])),
            ("pricing", "unpriced" if document["pricing"] is None else pretty(document["pricing"])),
        ]
    )


@app.command(epilog=EXIT_CODES)
def refresh(
    provider: Annotated[str | None, typer.Option("--provider", help="Only this one; without it every one.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Ask providers what they serve, as a task that a worker runs.

    Example: headrace models refresh
    """
    with acting(data_dir, "models refresh", provider) as headrace:
        made = headrace.discoveries.request_now(provider)
    if as_json:
        say_json({"tasks": [{"provider": t.provider, "task_id": t.task_id, "is_new": t.is_new} for t in made]})
        return
    say_table(("TASK", "PROVIDER"), [(task.task_id, task.provider) for task in made])


@app.command(epilog=EXIT_CODES)
def override(
    model: Model,
    ability: AbilityWord,
    answer: Annotated[Answer | None, typer.Argument(metavar="ANSWER", help=", ".join(Answer))] = None,
    *,
    provider: ProviderName = None,
    reason: Annotated[str, typer.Option("--note", help="Why, for other operators.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take it back: what was discovered counts again.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Say whether a model can do something, whatever was discovered; or take that back.

    Example: headrace models override acme-1 vision no --note "answers as if it saw"
    """
    if remove == (answer is not None):
        raise typer.BadParameter("give an answer, or --remove")
    with (
        acting(data_dir, "models override", model) as headrace,
        database_errors("it is not known whether the override was changed"),
    ):
        at = provider or EVERY_PROVIDER
        if answer is None:
            headrace.capability_overrides.remove(model, ability, provider=at)
            note(f"what was discovered of {model} counts again")
            return
        said = headrace.capability_overrides.set(model, ability, answer, provider=at, note=reason)
    if as_json:
        say_json(said.to_document())
        return
    where = f"at {provider}" if provider else "at every provider"
    typer.echo(f"{model} {where}: {said.ability.value} is {said.answer.value}")


def _tell_providers(snapshot: Snapshot) -> None:
    for row in discovery_documents(snapshot):
        age, error = row["age_s"], row["error"]
        if row["enabled"]:
            told = "was never discovered" if age is None else f"was discovered {age} s ago"
            note(f"provider {row['provider']} {told}{f'; the last try failed: {error}' if error else ''}")


def _abilities(document: dict[str, Any]) -> str:
    can = [ability for ability, found in document["capabilities"].items() if found["answer"] == Answer.YES.value]
    return " ".join(can) or "unknown"


def _judgement(found: dict[str, Any]) -> str:
    source = f" by {found['source']}" if found["source"] else ""
    return f"{found['answer']}{source}" + ("" if found["age_s"] is None else f", {found['age_s']} s old")


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
