"""`headrace demo`: a mixed batch on servers of its own, each task announced with how it is to end."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.text import Text

from core.app import App, open_app
from core.errors import Misconfigured
from core.settings import Settings, load_settings
from core.tasks.validation import validate_input
from headrace.cli.output import Exit, complain, told_errors
from headrace.demo.announced import LEAST, Announced, Json, announce
from headrace.demo.client import ApiClient
from headrace.demo.deployment import Deployment, started_deployment
from headrace.demo.following import Batch
from headrace.demo.provider import started_provider
from headrace.demo.report import last_line, say_announced, say_broken, say_results, say_times
from headrace.demo.view import opened_view

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEFAULT_TASKS = 20
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHECK_S = 1.0
_WIDE = 140  # columns where no terminal decides

_SERVERS: tuple[str, ...] = ("database_url", "redis_url", "broker_url")


@app.command(epilog="Exit codes: 0 every task ended as announced, 1 one did not, 2 wrong usage, 3 it did not start.")
def demo(
    *,
    tasks: Annotated[
        int, typer.Option(min=LEAST, max=5000, help="How many tasks; all beyond eight are chats.")
    ] = DEFAULT_TASKS,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web process; 0 picks a free one.")] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where its servers live.", show_default="demo in the data directory")
    ] = None,
    chat_model: Annotated[str | None, typer.Option(help="Model of the chats.", show_default="first listed")] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="Model of the embedding.", show_default="first listed")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="How long the tasks may take, seconds.")] = 120,
) -> None:
    """
    Start everything, run a mixed batch of tasks and show what happened.

    The provider is HEADRACE_PROVIDER_URL when that is set, else a mock. Example: headrace demo --tasks 50 --keep
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    with _stopped_by_signals(), told_errors(), ExitStack() as stack:
        settings = _own_settings(port=port, data_dir=data_dir)
        stack.enter_context(_only_one(settings.data_dir))
        console.print(Text(f"starting PostgreSQL, Valkey, web, worker and scheduler in {settings.data_dir}"))
        provider = stack.enter_context(started_provider(settings, settings.data_dir))
        console.print(Text(f"provider: {provider.story}"), soft_wrap=True)
        served = settings.model_copy(update={"provider_url": provider.url})
        deployment = stack.enter_context(started_deployment(served))
        console.print(Text(f"ready at {deployment.url}, log in {deployment.log}\n"), soft_wrap=True)
        announced = announce(tasks, provider.models(chat_model, embedding_model))
        say_announced(console, announced)
        batch = _run(console, served, deployment, announced, timeout_s=timeout_s)
        _say(console, batch, deployment if keep else None)
        if keep:
            _wait_for_ctrl_c(deployment)
    raise typer.Exit(Exit.DONE if all(followed.outcome is None for followed in batch.tasks) else Exit.REFUSED)


def _own_settings(*, port: int, data_dir: Path | None) -> Settings:
    """The person's settings, but never their servers: the demo must not leave tasks in somebody's database."""
    settings = load_settings(port=port, host="127.0.0.1")
    ignored = [name.upper() for name in _SERVERS if getattr(settings, name) is not None]
    if ignored:
        complain(f"{', '.join(ignored)} ignored: the demo starts servers of its own")
    chosen = (data_dir or settings.data_dir / "demo").resolve()
    chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
    unset: dict[str, None] = dict.fromkeys(_SERVERS)
    return settings.model_copy(update={**unset, "data_dir": chosen, "diagnostic_tasks": True, "worker_queues": ()})


@contextmanager
def _only_one(data_dir: Path) -> Generator[None]:
    with (data_dir / "demo.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"another demo runs in {data_dir}: stop it, or choose another --data-dir") from None
        yield


def _run(
    console: Console, settings: Settings, deployment: Deployment, announced: list[Announced], *, timeout_s: float
) -> Batch:
    client = ApiClient(deployment.url, deployment.key)
    batch = Batch(client)
    try:
        with open_app(settings) as headrace:
            batch.enqueue(announced, _python_api(headrace, owner=_key_id(deployment.key)))
        console.print()
        with opened_view(console) as view:
            for _ in batch.follow(timeout_s=timeout_s):
                view.show(batch.tasks)
        batch.read_again()
    finally:
        client.close()
    return batch


def _python_api(headrace: App, *, owner: str) -> Callable[[Json], Json]:
    def enqueue(body: Json) -> Json:
        task_input = validate_input(headrace.types.get(body["type"]), body["input"])
        task: Json = orjson.loads(headrace.tasks.enqueue(task_input, owner=owner).to_json())
        return task

    return enqueue


def _key_id(clear_key: str) -> str:
    return clear_key.split("_")[1]


def _say(console: Console, batch: Batch, kept: Deployment | None) -> None:
    say_results(console, batch.tasks)
    console.print()
    say_times(console, batch)
    say_broken(console, batch.tasks)
    if kept is not None:
        typer.echo(f"\nstill running at {kept.url} until Ctrl-C, key {kept.key}; try:\n{kept.curl()}\n")
    typer.echo(last_line(batch.tasks))


def _wait_for_ctrl_c(deployment: Deployment) -> None:
    """Ends well: being stopped is what --keep is for."""
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        stop.set()

    for number in _STOPS:
        signal.signal(number, leave)
    while not stop.wait(_CHECK_S):
        deployment.check()


@contextmanager
def _stopped_by_signals() -> Generator[None]:
    """
    Ctrl-C and SIGTERM unwind everything, once; a second one does not cut the unwinding short (it is bounded).

    Ends with 128 + the signal's number, as a shell expects.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        complain("stopping")
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
