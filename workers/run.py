"""
One run of one task: what its handler sees (`HandlerContext`), and how others interrupt it.

An interruption is noted once, the first reason counts. An `async def` handler is cancelled at its next await; a sync
one sees it at `ctx.check()`, and past its deadline HandlerStopped is raised in its thread while the handler is on it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import orjson

from core.tasks.model import Claimed
from workers.context import HandlerContext, HandlerStopped

if TYPE_CHECKING:
    from core.providers.routing import Router

MAX_MESSAGE = 500


class Interruption(StrEnum):
    """Why a run must end before its handler is done."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    STOPPING = "stopping"
    """The process stops; the task goes back to its queue."""
    LOST = "lost"
    """The process was declared dead; another runs the task already."""


class Run(HandlerContext):
    """
    Args:
        claimed_at: when the claim was answered, by the monotonic clock.
    """

    def __init__(
        self,
        claimed: Claimed,
        claimed_at: float,
        *,
        report: Callable[[Claimed, str], None],
        get_provider: Callable[[], Router],
    ) -> None:
        task = claimed.task
        self.claimed = claimed
        self.task_id = task.public_id
        self.owner_id = task.owner_id
        self.attempt = task.attempt
        self.deadline_at = claimed.deadline_at
        poll_state = claimed.poll_state_json
        # The standard reader: it takes all that `to_json` may have written, large integers and lone surrogates too.
        self.poll_state = None if poll_state is None else json.loads(poll_state)
        # The database said both times, so this host's clock need not be right.
        self.ends_at = claimed_at + (claimed.deadline_at - task.changed_at).total_seconds()
        self.interruption: Interruption | None = None
        self.progress_json: str | None = None
        self._claimed_at = claimed_at
        self._report = report
        self._get_provider = get_provider
        self._guard = threading.Lock()
        self._thread_id = 0  # of the thread in which a sync handler may be interrupted now
        self._raised = False
        self._cancel: Callable[[], object] | None = None
        self._told: set[Interruption] = set()
        self._finish_taken = False

    # --- for the handler

    @property
    def provider(self) -> Router:
        return self._get_provider()

    def remaining(self) -> timedelta:
        return timedelta(seconds=max(0.0, self.ends_at - time.monotonic()))

    def check(self) -> None:
        if self.interruption is None and time.monotonic() >= self.ends_at:
            self.interruption = Interruption.DEADLINE
        if self.interruption is not None:
            raise HandlerStopped(self.interruption.value)

    def progress(self, percent: float | None, message: str | None = None) -> None:
        shown = None if percent is None or math.isnan(percent) else min(100.0, max(0.0, float(percent)))
        text = None if message is None else storable(message)[:MAX_MESSAGE]
        self.progress_json = orjson.dumps({"percent": shown, "message": text}).decode()
        self._report(self.claimed, self.progress_json)

    # --- for the worker

    def database_now(self) -> datetime:
        """The database's clock, as far as this process can tell without asking."""
        return self.claimed.task.changed_at + timedelta(seconds=time.monotonic() - self._claimed_at)

    def take_finish(self) -> bool:
        """True for the first caller only: who gets it writes the outcome."""
        with self._guard:
            taken, self._finish_taken = self._finish_taken, True
            return not taken

    def arm(self) -> None:
        """The sync handler is about to run in this thread: from now on it may be interrupted here."""
        self._thread_id = threading.get_ident()

    def disarm(self) -> None:
        """
        The sync handler is over: nothing is raised in this thread after the return.

        Raises:
            HandlerStopped: it was on its way already; it comes once, so a second call does not raise.
        """
        with self._guard:
            self._thread_id = 0
            if self._raised:
                _raise_in_thread(threading.get_ident(), None)

    def cancel_with(self, cancel: Callable[[], object]) -> None:
        """The async handler runs; `cancel` cancels it from any thread."""
        with self._guard:
            self._cancel = cancel
            late = self.interruption is not None
        if late:
            cancel()

    def interrupt(self, why: Interruption) -> None:
        """Ask the handler to end; callable from any thread, and again."""
        with self._guard:
            # Once per reason: a second cancel would cut off the handler's own clean-up.
            cancel = self._cancel if why not in self._told else None
            self._told.add(why)
            if self.interruption is None:
                self.interruption = why
            if why is Interruption.DEADLINE and self._thread_id and not self._raised:
                self._raised = True
                _raise_in_thread(self._thread_id, HandlerStopped)
        if cancel is not None:
            cancel()


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def cancel_threadsafe(loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> Callable[[], object]:
    return lambda: loop.call_soon_threadsafe(task.cancel)


def _raise_in_thread(thread_id: int, exception: type[BaseException] | None) -> None:
    """None takes back what was not raised yet."""
    argument = ctypes.py_object(exception) if exception is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), argument)
