"""
What becomes of a run: pure decisions from what the handler did to the outcome that is written.

Whatever a handler returns or raises ends here in a storable outcome; only the database may still refuse it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta

import orjson
from pydantic import ValidationError

from core.logs import redact
from core.tasks.model import Outcome, TaskError, TaskState
from core.tasks.retry import Attempt, Budget, GiveUp, decide
from workers.context import PermanentFailure, PollAgain, RawJson, RetryableFailure
from workers.run import MAX_MESSAGE, Interruption, Run, storable

MAX_CODE = 64
MAX_PARKED = timedelta(days=30)  # beyond any deadline; keeps PostgreSQL's interval in range

DEADLINE_EXCEEDED = TaskError("deadline_exceeded", "the deadline passed first", retryable=True)


class Unstorable(Exception):
    """A result that cannot be kept; `error` says why."""

    def __init__(self, error: TaskError) -> None:
        super().__init__(error.message)
        self.error = error


def of_value(value: object, run: Run, *, limit_bytes: int) -> Outcome:
    """What the handler returned."""
    try:
        if isinstance(value, PollAgain):
            return Outcome(
                state=TaskState.PROCESSING,
                after=min(max(value.after, timedelta()), MAX_PARKED),
                poll_state_json=_within(_dump(value.state), limit_bytes),
                progress_json=run.progress_json,
            )
        return Outcome(
            state=TaskState.COMPLETED, result_json=to_json(value, limit_bytes), progress_json=run.progress_json
        )
    except Unstorable as unstorable:
        return Outcome(
            state=TaskState.FAILED, error=unstorable.error, counts_as=Budget.FAILURE, progress_json=run.progress_json
        )


def to_json(value: object, limit_bytes: int) -> str:
    """
    The JSON text of a result. Not-a-number becomes null; integers and keys that orjson refuses are kept.

    Raises:
        Unstorable: it is not JSON, or longer than the limit.
    """
    return _within(value.text if isinstance(value, RawJson) else _dump(value), limit_bytes)


def _within(text: str, limit_bytes: int) -> str:
    # Characters are at most bytes, so most texts are measured without being encoded.
    size = len(text) if len(text) > limit_bytes or text.isascii() else len(text.encode("utf-8", "replace"))
    if size > limit_bytes:
        message = f"the result is longer than {limit_bytes} bytes (HEADRACE_RESULT_LIMIT_BYTES)"
        raise Unstorable(TaskError("result_too_large", message))
    return text


def _dump(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        pass  # integers beyond 64 bits, keys that are no text, lone surrogates: the slower writer takes them
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        message = _bounded(f"the result is not JSON: {error}")
        raise Unstorable(TaskError("result_unstorable", message)) from error


def of_failure(failure: Exception, run: Run, *, uniform: Callable[[], float] = random.random) -> Outcome:
    """What the handler raised: another attempt, or failed with this as its last error."""
    match failure:
        case PermanentFailure():
            return _retry(run, _error(failure, failure.code, retryable=False), uniform=uniform)
        case RetryableFailure():
            return _retry(
                run,
                _error(failure, failure.code, retryable=True),
                budget=Budget.RATE_LIMIT if failure.rate_limited else Budget.FAILURE,
                retry_after=failure.retry_after,
                uniform=uniform,
            )
        case _:
            text = f"{type(failure).__name__}: {_text_of(failure)}".removesuffix(": ")
            return _retry(run, TaskError("handler_error", _bounded(text), retryable=True), uniform=uniform)


def is_declared(failure: Exception) -> bool:
    """Whether the handler said what went wrong; any other exception is a fault in it."""
    return isinstance(failure, PermanentFailure | RetryableFailure)


def of_interruption(why: Interruption, run: Run) -> Outcome:
    """The handler ended because it was asked to."""
    match why:
        case Interruption.CANCELLED:
            return Outcome(state=TaskState.CANCELLED, progress_json=run.progress_json)
        case Interruption.DEADLINE:
            return timed_out(run)
        case Interruption.STOPPING | Interruption.LOST:  # after a loss the fence refuses it, as it should
            poll_state = run.claimed.poll_state_json
            return Outcome(
                state=TaskState.PENDING if poll_state is None else TaskState.PROCESSING,
                poll_state_json=poll_state,
                progress_json=run.progress_json,
            )


def timed_out(run: Run, *, started: bool = True) -> Outcome:
    return Outcome(
        state=TaskState.TIMED_OUT,
        error=DEADLINE_EXCEEDED,
        progress_json=run.progress_json,
        undo_attempt=not started and run.claimed.poll_state_json is None,
    )


def input_invalid(error: ValidationError) -> Outcome:
    """The stored input does not fit this process's model: accepted by another version, or by hand."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    words = [f"{'.'.join(str(part) for part in one['loc']) or 'input'}: {one['msg']}" for one in found[:3]]
    return Outcome(
        state=TaskState.FAILED,
        error=TaskError("input_invalid", _bounded("; ".join(words))),
        counts_as=Budget.FAILURE,
    )


def _retry(
    run: Run,
    error: TaskError,
    *,
    budget: Budget = Budget.FAILURE,
    retry_after: timedelta | None = None,
    uniform: Callable[[], float],
) -> Outcome:
    claimed = run.claimed
    decision = decide(
        Attempt(
            retryable=error.retryable,
            budget=budget,
            failures=claimed.failures,
            rate_limits=claimed.rate_limits,
            max_attempts=claimed.task.max_attempts,
            retry_after=retry_after,
            now=run.database_now(),
            deadline_at=claimed.deadline_at,
        ),
        random=uniform,
    )
    if isinstance(decision, GiveUp):
        return Outcome(state=TaskState.FAILED, error=error, counts_as=budget, progress_json=run.progress_json)
    # A parked task that failed to look at its provider looks again: nothing is submitted twice.
    poll_state = claimed.poll_state_json
    return Outcome(
        state=TaskState.PENDING if poll_state is None else TaskState.PROCESSING,
        error=error,
        after=decision.after,
        poll_state_json=poll_state,
        progress_json=run.progress_json,
        counts_as=budget,
    )


def _error(failure: Exception, code: str, *, retryable: bool) -> TaskError:
    return TaskError(storable(str(code))[:MAX_CODE], _bounded(_text_of(failure)), retryable=retryable)


def _text_of(failure: Exception) -> str:
    try:
        return str(failure)
    except Exception:  # a user's __str__: whatever it does, the task gets its outcome
        return "(its text could not be read)"


def _bounded(text: str) -> str:
    # Cut twice: redacting megabytes is slow, and cutting first at the end could cut a secret's mark off.
    text = redact(storable(text[: MAX_MESSAGE * 10]))
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
