"""The batch in progress: enqueue each task, cancel the one that is to be cancelled, poll all until they are final."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core.tasks.model import TaskState
from headrace.demo.announced import Announced, Json
from headrace.demo.client import ApiClient

POLL_S = 0.2  # between two rounds; the pace of somebody who shows progress to a person

EnqueueByPython = Callable[[Json], Json]
"""Takes a body as for HTTP and returns the accepted task; the Python API itself."""


@dataclass(slots=True)
class Followed:
    """
    One task of the batch as a client knows it.

    Args:
        due_at: the earliest start, as it was accepted.
        accept_s: from sending it to the answer that it was accepted.
    """

    announced: Announced
    task: Json
    due_at: datetime
    accept_s: float
    etag: str | None = None
    cancel_sent: bool = False

    @property
    def state(self) -> TaskState:
        return TaskState(self.task["state"])

    @property
    def outcome(self) -> str | None:
        """What is not as announced; None when all is."""
        return self.announced.broken(self.task, due_at=self.due_at) if self.state.is_final else f"still {self.state}"


@dataclass(slots=True)
class Batch:
    """`sources`: how many reads were answered from where; `unchanged`: how many of them were a 304."""

    client: ApiClient
    tasks: list[Followed] = field(default_factory=list[Followed])
    sources: Counter[str] = field(default_factory=Counter[str])
    unchanged: int = 0

    def enqueue(self, announced: list[Announced], by_python: EnqueueByPython) -> None:
        for one in announced:
            body = dict(one.body)
            if one.delay_s:
                body["run_at"] = (datetime.now(UTC) + timedelta(seconds=one.delay_s)).isoformat()
            began = time.perf_counter()
            if one.by_python:
                task = by_python(body)
            else:
                task = self.client.enqueue(body, idempotency_key=secrets.token_hex(16))
            took_s = time.perf_counter() - began
            due_at = max(datetime.fromisoformat(task[name]) for name in ("created_at", "run_at"))
            self.tasks.append(Followed(one, task, due_at, took_s))

    def follow(self, *, timeout_s: float) -> Iterator[None]:
        """Poll in rounds until every task is final or the time is up; yields after each round."""
        deadline = time.monotonic() + timeout_s
        while True:
            for followed in self.tasks:
                if not followed.state.is_final:
                    self._look(followed)
            yield
            if all(followed.state.is_final for followed in self.tasks) or time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def read_again(self) -> None:
        """Every task once more without an ETag, as another client would."""
        for followed in self.tasks:
            followed.etag = None
            self._look(followed)

    def _look(self, followed: Followed) -> None:
        task_id = followed.task["id"]
        read = self.client.read(task_id, followed.etag)
        self.sources[read.source] += 1
        if read.task is None:
            self.unchanged += 1
        else:
            followed.task, followed.etag = read.task, read.etag
        if followed.announced.cancel and not followed.cancel_sent and followed.state is TaskState.PROCESSING:
            self.client.cancel(task_id)
            followed.cancel_sent = True
