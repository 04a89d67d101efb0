"""Runs `diagnostic.*`. All of them are harmless to run twice: they have no effect outside their process."""

from __future__ import annotations

import asyncio
import os

from core.task_types.diagnostic import (
    DiagnosticExit,
    DiagnosticFail,
    DiagnosticNoop,
    DiagnosticResult,
    DiagnosticSleep,
)
from workers.context import HandlerContext, PermanentFailure, RawJson, RetryableFailure

SHOWN_S = 0.5  # the pace at which progress is written; shorter steps would not be seen
QUIET_S = 1.0  # sleeps below it end before their progress would be read


def noop(input: DiagnosticNoop, ctx: HandlerContext) -> None:
    """Do nothing: what is measured is everything around it."""


async def sleep(input: DiagnosticSleep, ctx: HandlerContext) -> dict[str, float]:
    """Wait, showing progress. A second run waits again from the start."""
    if input.seconds < QUIET_S:
        await asyncio.sleep(input.seconds)
        return {"slept_s": input.seconds}
    clock = asyncio.get_running_loop()
    start = clock.time()
    while (passed := clock.time() - start) < input.seconds:
        ctx.progress(100 * passed / input.seconds, "sleeping")
        await asyncio.sleep(min(SHOWN_S, input.seconds - passed))
    return {"slept_s": input.seconds}


def fail(input: DiagnosticFail, ctx: HandlerContext) -> dict[str, int]:
    """Fail the first `times` attempts; attempts are counted by the row, so a second run decides the same."""
    if input.times is not None and ctx.attempt > input.times:
        return {"attempt": ctx.attempt}
    if input.retryable:
        raise RetryableFailure(input.message, code="diagnostic")
    raise PermanentFailure(input.message, code="diagnostic")


def leave(input: DiagnosticExit, ctx: HandlerContext) -> dict[str, int]:
    """End the process as a crash would: no clean-up, no last words."""
    if input.times is None or ctx.attempt <= input.times:
        os._exit(input.code)
    return {"attempt": ctx.attempt}


def result(input: DiagnosticResult, ctx: HandlerContext) -> RawJson:
    """A JSON text of exactly the size asked for, quotes included."""
    return RawJson('"' + "x" * (input.size_bytes - 2) + '"')
