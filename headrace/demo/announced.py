"""What the demo enqueues: each task with the end it is announced to have. Pure values; nothing here does I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.tasks.model import TaskState

Json = dict[str, Any]  # bodies and tasks as in docs/contract.md: inputs and results have any shape

LATER_S = 4.0  # long enough to be seen waiting, short enough not to be waited for
CANCELLED_SLEEP_S = 120  # longer than the demo: only a cancel ends it as announced
SPECIAL = 8  # tasks that are not plain chats
LEAST = SPECIAL + 1

_QUESTIONS = (
    "Name a river that flows north.",
    "What is a head race in a water mill?",
    "Write one line about the sea.",
    "Which planet has the most moons?",
    "What is the boiling point of water on Mont Blanc?",
    "Say good morning in Finnish.",
)


@dataclass(frozen=True, slots=True)
class Models:
    """The provider's models the demo uses; `embedding` None: it lists none, so chats take their place."""

    chat: str
    embedding: str | None
    image: str
    video: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """
    One task, and how it is to end.

    Args:
        label: unique in the batch.
        body: what is posted to /v1/tasks.
        ends: its final state.
        attempts: how many it is to need; None: any number (a real provider may refuse one for a while).
        answers: whether the result has the shape of an answer.
        delay_s: sent with a `run_at` this far ahead.
        cancel: cancelled by the demo once it runs.
        by_python: accepted by the Python API, not over HTTP.
    """

    label: str
    body: Json
    ends: TaskState = TaskState.COMPLETED
    attempts: int | None = None
    answers: Callable[[Any], bool] = lambda result: True
    delay_s: float = 0.0
    cancel: bool = False
    by_python: bool = False

    def promise(self) -> str:
        """How it is to end, for people."""
        if self.attempts is None:
            return self.ends.value
        return f"{self.ends.value} at attempt {self.attempts}"

    def broken(self, task: Json, *, due_at: datetime) -> str | None:
        """
        What is not as announced in the final task, or None.

        Args:
            due_at: the earliest start, as it was accepted (`run_at` itself moves with each retry).
        """
        if task["state"] != self.ends:
            error = f" ({task['error']['code']}: {task['error']['message']})" if task["error"] else ""
            return f"{task['state']}{error} instead of {self.ends}"
        if self.attempts is not None and task["attempt"] != self.attempts:
            return f"{task['attempt']} attempts instead of {self.attempts}"
        if self.ends is TaskState.FAILED and task["error"] is None:
            return "failed without an error"
        if self.ends is TaskState.COMPLETED and not _has_shape(self.answers, task["result"]):
            return "its result is not an answer"
        if task["started_at"] is not None and datetime.fromisoformat(task["started_at"]) < due_at:
            return "started before its time"
        return None


def announce(count: int, models: Models) -> list[Announced]:
    """The batch: eight tasks that show one thing each, and chats up to `count` (at least nine tasks)."""
    special = [
        _chat("chat by Python", models.chat, 0, by_python=True),
        _embedding(models.embedding) if models.embedding else _chat("chat, again", models.chat, 1),
        Announced(
            label="image",
            body={"type": "image.generation", "input": {"model": models.image, "prompt": "a mill race at dawn"}},
            answers=lambda result: len(result["data"]) > 0,
        ),
        Announced(
            label="video",
            body={"type": "video.generation", "input": {"model": models.video, "prompt": "a wheel turning"}},
            answers=lambda result: result["status"] == "completed",
        ),
        Announced(
            label="fails once, then works",
            body={"type": "diagnostic.fail", "input": {"message": "the first attempt fails", "times": 1}},
            attempts=2,
        ),
        Announced(
            label="fails for good",
            body={"type": "diagnostic.fail", "input": {"message": "not worth a retry", "retryable": False}},
            ends=TaskState.FAILED,
            attempts=1,
        ),
        Announced(
            label="cancelled while it runs",
            body={"type": "diagnostic.sleep", "input": {"seconds": CANCELLED_SLEEP_S}},
            ends=TaskState.CANCELLED,
            cancel=True,
        ),
        _chat(f"runs {LATER_S:g} s later", models.chat, 2, delay_s=LATER_S),
    ]
    chats = [_chat(f"chat {number}", models.chat, number) for number in range(1, max(count, LEAST) - SPECIAL + 1)]
    return special + chats


def _chat(label: str, model: str, number: int, *, delay_s: float = 0.0, by_python: bool = False) -> Announced:
    question = _QUESTIONS[number % len(_QUESTIONS)]
    # 64: an answer of a line or two, also from a small model that does not know when to stop.
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 64}
    return Announced(
        label=label,
        body={"type": "chat.completion", "input": body},
        answers=lambda result: isinstance(result["choices"][0]["message"]["content"], str),
        delay_s=delay_s,
        by_python=by_python,
    )


def _embedding(model: str) -> Announced:
    return Announced(
        label="embedding",
        body={"type": "embedding", "input": {"model": model, "input": ["a stream", "a brook", "an invoice"]}},
        answers=lambda result: all(len(entry["embedding"]) > 1 for entry in result["data"]),
    )


def _has_shape(answers: Callable[[Any], bool], result: Any) -> bool:
    try:
        return answers(result)
    except (KeyError, IndexError, TypeError):
        return False
