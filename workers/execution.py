"""
Runs one claimed task: input, handler, outcome, finish. Every run ends in exactly one finish, whatever its handler does.

Sync handlers run in the caller's thread, `async def` handlers on the process's loop while the caller waits. Our own
time limit is armed only inside the handler.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from core.errors import Unavailable
from core.ids import PublicId
from core.logs import bind
from core.task_types.spec import TaskInput
from core.tasks.model import Claimed, Outcome, TaskState
from core.tasks.writer import TaskWriter
from workers import outcomes
from workers.context import HandlerStopped, RetryableFailure
from workers.handler_lookup import Handler
from workers.handler_loop import HandlerLoop
from workers.run import Interruption, Run, cancel_threadsafe

if TYPE_CHECKING:
    from core.providers.routing import Router

logger = logging.getLogger(__name__)

STUCK_S = 10.0  # a handler that is still there so long after its deadline cannot be interrupted
EARLY_S = 0.05  # a timer set to the deadline may fire this much before it
CANCELS_REMEMBERED_S = 30.0  # a cancel may be heard before its task is known here
MAX_CANCELS = 1000


class Execution:
    """The runs of this process. Thread-safe."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        writer: TaskWriter,
        loop: HandlerLoop,
        get_provider: Callable[[], Router],
        result_limit_bytes: int,
    ) -> None:
        self._handlers = handlers
        self._writer = writer
        self._loop = loop
        self._get_provider = get_provider
        self._result_limit_bytes = result_limit_bytes
        self._runs: dict[PublicId, Run] = {}
        self._cancelled: dict[PublicId, float] = {}

    def run(self, claimed: Claimed, claimed_at: float) -> None:
        """
        Run the task to its outcome and queue that.

        Args:
            claimed_at: when the claim was answered, by the monotonic clock.
        """
        run = Run(claimed, claimed_at, report=self._writer.progress, get_provider=self._get_provider)
        outcome: Outcome | None = None
        public_id = claimed.task.public_id
        with bind(task_id=public_id, attempt=run.attempt):
            self._runs[public_id] = run
            if self._cancelled and public_id in self._cancelled:
                run.interrupt(Interruption.CANCELLED)
            try:
                outcome = self._outcome(self._handlers[claimed.task.type], run)
            finally:
                if outcome is None:  # a BaseException that nobody knows: it goes on, the task must not hang
                    outcome = outcomes.of_failure(_BROKEN, run)
                self._finish(run, outcome)
                self._runs.pop(public_id, None)

    def cancel(self, public_id: PublicId) -> None:
        """The owner of a task of ours wants it stopped."""
        run = self._runs.get(public_id)
        if run is not None:
            run.interrupt(Interruption.CANCELLED)
            return
        now = time.monotonic()
        if len(self._cancelled) >= MAX_CANCELS:
            self._cancelled.clear()  # the heartbeat names them again
        self._cancelled[public_id] = now
        for known, heard_at in list(self._cancelled.items()):
            if now - heard_at > CANCELS_REMEMBERED_S:
                self._cancelled.pop(known, None)

    def running(self) -> list[Run]:
        return list(self._runs.values())

    def interrupt_all(self, why: Interruption) -> None:
        for run in self.running():
            run.interrupt(why)

    def abandon(self, run: Run, outcome: Outcome) -> bool:
        """Write this outcome for a run whose handler does not end; False when it just ended by itself."""
        taken = self._finish(run, outcome)
        if taken:
            self._runs.pop(run.claimed.task.public_id, None)  # nobody waits for it any more
        return taken

    def _finish(self, run: Run, outcome: Outcome) -> bool:
        if not run.take_finish():
            return False
        try:
            self._writer.finish(run.claimed, outcome)
        except Unavailable:
            logger.warning("finish came too late for this process; the sweeper returns the task")
        if outcome.state is not TaskState.COMPLETED:
            code = None if outcome.error is None else outcome.error.code
            logger.info("task run ended", extra={"state": outcome.state.value, "code": code})
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("task run ended", extra={"state": outcome.state.value})
        return True

    def _outcome(self, handler: Handler, run: Run) -> Outcome:
        if run.interruption is not None:
            return outcomes.of_interruption(run.interruption, run)
        if time.monotonic() >= run.ends_at:
            return outcomes.timed_out(run, started=False)
        try:
            parsed = handler.parse(run.claimed.input_json)
        except ValidationError as error:
            return outcomes.input_invalid(error)
        try:
            value = self._call_async(handler, parsed, run) if handler.is_async else call_sync(handler, parsed, run)
            return outcomes.of_value(value, run, limit_bytes=self._result_limit_bytes)
        except (HandlerStopped, asyncio.CancelledError, futures.CancelledError, SystemExit) as stopped:
            return _of_stop(stopped, run)
        except Exception as failure:
            return _of_exception(failure, run)

    def _call_async(self, handler: Handler, parsed: TaskInput, run: Run) -> Any:
        future = self._loop.submit(_supervise(handler, parsed, run))
        try:
            return future.result(max(0.0, run.ends_at - time.monotonic()) + 2 * STUCK_S)
        except TimeoutError:
            if future.done():  # the handler's own
                raise
            run.interrupt(Interruption.DEADLINE)
            raise HandlerStopped(Interruption.DEADLINE.value) from None


_BROKEN = RetryableFailure("the handler ended abnormally; the worker's log says how", code="handler_error")


def call_sync(handler: Handler, parsed: TaskInput, run: Run) -> Any:
    """
    Call the handler in this thread, where it may be interrupted; after the return or raise nothing is.

    Raises:
        HandlerStopped: interrupted; and whatever the handler raises.
    """
    run.arm()
    try:
        try:
            return handler.call(parsed, run)
        finally:
            run.disarm()
    except HandlerStopped:
        run.disarm()  # the first may have been cut off by what it was to prevent
        raise


async def _supervise(handler: Handler, parsed: TaskInput, run: Run) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine on a loop runs in a task")
    run.cancel_with(cancel_threadsafe(loop, task))
    timer = loop.call_later(max(0.0, run.ends_at - time.monotonic()), run.interrupt, Interruption.DEADLINE)
    try:
        return await handler.call(parsed, run)
    except (SystemExit, KeyboardInterrupt) as error:
        # asyncio would let these end the loop, and every other handler with it.
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
    finally:
        timer.cancel()


def _of_stop(stopped: BaseException, run: Run) -> Outcome:
    if run.interruption is not None:
        return outcomes.of_interruption(run.interruption, run)
    logger.warning("handler stopped without being asked to", exc_info=stopped)
    message = f"the handler raised {type(stopped).__name__} without being asked to stop"
    return outcomes.of_failure(RetryableFailure(message, code="handler_error"), run)


def _of_exception(failure: Exception, run: Run) -> Outcome:
    if run.interruption is not None:
        return outcomes.of_interruption(run.interruption, run)
    if time.monotonic() >= run.ends_at - EARLY_S:
        return outcomes.timed_out(run)
    if not outcomes.is_declared(failure):
        logger.warning("handler failed", exc_info=failure)
    return outcomes.of_failure(failure, run)
