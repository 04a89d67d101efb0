"""What the batch came to: each task's result (shortened), times, and where its status reads were answered from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import median
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.tasks.model import TaskState
from headrace.cli.output import one_line
from headrace.demo.announced import Announced, Json
from headrace.demo.following import Batch, Followed
from headrace.demo.view import state_text

SHOWN = 60  # characters of a result


def say_announced(console: Console, announced: Sequence[Announced]) -> None:
    """What is about to be enqueued, equal ones together."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("TASK", "TYPE", "ANNOUNCED TO END AS"):
        table.add_column(heading, no_wrap=True)
    chats = [one for one in announced if one.label.startswith("chat ") and one.label.split()[1].isdigit()]
    for one in announced:
        if one not in chats:
            table.add_row(one.label, one.body["type"], one.promise())
    table.add_row(f"{len(chats)} chats", "chat.completion", TaskState.COMPLETED.value)
    console.print(table)


def say_results(console: Console, tasks: Sequence[Followed]) -> None:
    headings = ("TASK", "STATE", "TRY", "ACCEPT", "WAIT", "RUN", "RESULT")
    rows = [_result_row(followed) for followed in tasks]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        # In a narrow terminal only the result is cut.
        width = None if heading == "RESULT" else max(len(heading), *(row[place].cell_len for row in rows))
        right = heading in ("ACCEPT", "WAIT", "RUN")
        table.add_column(
            heading, no_wrap=True, overflow="ellipsis", justify="right" if right else "left", min_width=width
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _result_row(followed: Followed) -> tuple[Text, ...]:
    task = followed.task
    return (
        Text(followed.announced.label),
        state_text(followed.state),
        Text(str(task["attempt"])),
        Text(_span(followed.accept_s)),
        Text(_span(_waited_s(followed))),
        Text(_span(_ran_s(task))),
        Text(shortened(task)),
    )


def say_times(console: Console, batch: Batch) -> None:
    rows = (
        ("accept", [followed.accept_s for followed in batch.tasks], "request sent to 202 received"),
        ("wait", [_waited_s(f) for f in batch.tasks], "accepted (or run_at, if later) to the first start"),
        (
            "run",
            [_ran_s(f.task) for f in batch.tasks],
            "first start to the final state, with the pauses of retries",
        ),
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("TIME", "MEDIAN", "LONGEST", "FROM ... TO"):
        table.add_column(heading, justify="right" if heading in ("MEDIAN", "LONGEST") else "left")
    for name, spans, meaning in rows:
        known = [span for span in spans if span is not None]
        if known:
            table.add_row(name, _span(median(known)), _span(max(known)), meaning)
    console.print(table)
    reads = ", ".join(f"{count} from {source}" for source, count in sorted(batch.sources.items()))
    console.print(Text(f"{batch.sources.total()} status reads: {reads}; {batch.unchanged} of them 304 Not Modified"))


def say_broken(console: Console, tasks: Sequence[Followed]) -> None:
    for followed in tasks:
        if followed.outcome is not None:
            line = f"not as announced: {followed.announced.label} ({followed.task['id']}): {followed.outcome}"
            console.print(Text(one_line(line), style="red"), soft_wrap=True)


def last_line(tasks: Sequence[Followed]) -> str:
    expected = sum(followed.outcome is None for followed in tasks)
    return f"demo: {len(tasks)} tasks, {expected} as expected"


def shortened(task: Json) -> str:
    """The heart of the result or the error, for one column."""
    if task["error"] is not None:
        return one_line(f"{task['error']['code']}: {task['error']['message']}")[:SHOWN]
    if task["result"] is None:
        return ""
    try:
        said = _heart(task["type"], task["result"])
    except (KeyError, IndexError, TypeError):
        said = orjson.dumps(task["result"]).decode()
    return one_line(said if len(said) <= SHOWN else said[: SHOWN - 3] + "...")


def _heart(type_: str, result: Any) -> str:
    match type_:
        case "chat.completion":
            return " ".join(str(result["choices"][0]["message"]["content"]).split())
        case "embedding":
            vectors = result["data"]
            return f"{len(vectors)} vectors of {len(vectors[0]['embedding'])} numbers"
        case "image.generation":
            image = result["data"][0]
            return f"an image, {len(image['b64_json'])} characters" if image.get("b64_json") else str(image["url"])
        case "video.generation":
            return f"video {result['id']}, {result['status']}"
        case _:
            return orjson.dumps(result).decode()


def _waited_s(followed: Followed) -> float | None:
    started_at = followed.task["started_at"]
    return None if started_at is None else (_moment(started_at) - followed.due_at).total_seconds()


def _ran_s(task: Json) -> float | None:
    if task["started_at"] is None or task["finished_at"] is None:
        return None
    return (_moment(task["finished_at"]) - _moment(task["started_at"])).total_seconds()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
