"""A handler's context without a worker: what a run would see, and what the handler did with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from core.providers.openai_compatible import Provider
from core.providers.routing import Router
from tests.support.providers import endpoint_of, router_over
from workers.context import HandlerContext


class LocalContext(HandlerContext):
    """
    One run of one task in this process.

    Args:
        seconds: time left to the deadline when it starts.
    """

    def __init__(
        self,
        provider: Provider | None = None,
        *,
        attempt: int = 1,
        poll_state: Any = None,
        seconds: float = 30.0,
        task_id: str = "task_" + "0" * 32,
    ) -> None:
        self.task_id = task_id
        self.owner_id = "key_of_a_test"
        self.attempt = attempt
        self.deadline_at = datetime.now(UTC) + timedelta(seconds=seconds)
        self.poll_state = poll_state
        self.shown: list[tuple[float | None, str | None]] = []
        self._router = router_over(*(() if provider is None else (endpoint_of(provider),)))

    @property
    def provider(self) -> Router:
        return self._router

    def remaining(self) -> timedelta:
        return max(self.deadline_at - datetime.now(UTC), timedelta())

    def check(self) -> None:
        """Never stopped: tests that stop a run use a real worker."""

    def progress(self, percent: float | None, message: str | None = None) -> None:
        self.shown.append((percent, message))
