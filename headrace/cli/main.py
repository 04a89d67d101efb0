"""
`headrace ...`: finds the command group and runs it.

Groups are imported only when they are used, so that `headrace --help` needs neither a server nor a web framework.
Exit status: 0 done, 1 it failed, 2 the command or the settings cannot work, 3 a server is away (docs/operations.md).
"""

from __future__ import annotations

import importlib
import sys

import typer

from core.errors import HeadraceError, Misconfigured, Unavailable

GROUPS: dict[str, tuple[str, str]] = {
    "up": ("headrace.cli.up", "Run everything on this machine: database, web, workers, scheduler."),
    "demo": ("headrace.cli.demo", "Run a mixed batch of tasks on servers of its own and show what happened."),
    "tasks": ("headrace.cli.tasks", "Enqueue, show, list, cancel and retry tasks."),
    "keys": ("headrace.cli.keys", "Create, list and disable virtual keys."),
    "models": ("headrace.cli.models", "Show what models can do, ask providers anew, correct what was discovered."),
    "cache": ("headrace.cli.cache", "Show and reset the figures of the caches, and drop entries."),
    "queues": ("headrace.cli.queues", "List and add queues."),
    "jobs": ("headrace.cli.jobs", "List, run, pause and resume periodic jobs."),
    "schedules": ("headrace.cli.schedules", "Make, preview and change schedules that enqueue tasks."),
    "providers": ("headrace.cli.providers", "Add, list, test, change and remove providers."),
}
"""Name -> module with `app`, and the line shown by `headrace --help`."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status, or exits by itself for usage errors and --help."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words and words[0] in GROUPS:
            module = importlib.import_module(GROUPS[words[0]][0])
            module.app(args=words[1:], prog_name=f"headrace {words[0]}")
        else:
            _overview()(args=words or ["--help"], prog_name="headrace")
    except Misconfigured as error:
        typer.echo(f"headrace: {error}", err=True)
        return 2
    except Unavailable as error:
        typer.echo(f"headrace: {error}", err=True)
        return 3
    except HeadraceError as error:
        typer.echo(f"headrace: {error}", err=True)
        return 1
    except KeyboardInterrupt:  # while a group was still being imported
        return 130
    return 0


def _overview() -> typer.Typer:
    """An application that only knows the groups' names and lines: what --help shows."""
    overview = typer.Typer(
        name="headrace",
        help="The back office of an LLM gateway: long tasks, their status, keys, limits and money.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for name, (_, line) in GROUPS.items():
        overview.command(name, help=line)(_nothing)
    return overview


def _nothing() -> None:
    """Stands for a group in the overview; never called."""


if __name__ == "__main__":
    sys.exit(main())
