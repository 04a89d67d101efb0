"""
Runs `video.generation`: order the video, then look at it until it is ready, parked in between.

A render of ten minutes costs one row and a few short looks, not a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import cast

from core.providers.errors import ProviderFailure
from core.providers.filtering import filter_for, word
from core.providers.openai_compatible import Answer
from core.task_types.video_generation import VideoGeneration
from workers.context import HandlerContext, PermanentFailure, PollAgain, RawJson, poll_again
from workers.handlers.provider_calls import handler_failure, provider_failures

READY = frozenset({"completed", "succeeded"})
FAILED = frozenset({"failed", "cancelled", "canceled", "expired", "error"})
"""Every other status means: not yet. The task's deadline ends what never ends."""

FIRST_DELAY_S = 2.0
LONGEST_DELAY_S = 15.0
GROWTH = 1.5
LOOK_TIMEOUT = timedelta(seconds=30)  # a look is a small GET; the render is not waited for in it
SHORTEST_ASKED_WAIT = timedelta(milliseconds=100)  # 0 would make a busy loop over the row
LONGEST_ASKED_WAIT = timedelta(minutes=5)  # a provider that asks for more is looked at by then all the same
MOST_FAILED_LOOKS = 20  # in a row: about five minutes at the longest delay, then the task's retries decide
NOTHING_TOLD: Mapping[str, object] = {}


async def handle(input: VideoGeneration, ctx: HandlerContext) -> RawJson | PollAgain:
    """
    First run: order the video. Later runs: look at it; its final object is the result, unchanged.

    Runs twice: a look is a read. An order whose answer was lost is sent again with the task's id as Idempotency-Key; a
    provider that ignores the header renders (and charges) a second video.
    """
    state = ctx.poll_state
    if not isinstance(state, Mapping):
        return await _order(input, ctx)
    return await _look(input, ctx, cast("Mapping[str, object]", state))


async def _order(input: VideoGeneration, ctx: HandlerContext) -> RawJson | PollAgain:
    with provider_failures():
        answer = await ctx.provider.video_submit(input.body(), timeout=ctx.remaining(), idempotency_key=ctx.task_id)
    order = {"video_id": str(answer.body["id"]), "provider": answer.provider}
    return _next(input, ctx, answer, order, delay_s=FIRST_DELAY_S)


async def _look(input: VideoGeneration, ctx: HandlerContext, state: Mapping[str, object]) -> RawJson | PollAgain:
    video_id, delay_s = str(state["video_id"]), _number(state.get("delay_s"), FIRST_DELAY_S)
    # Only who took the order knows it. Parked before there were several: the first.
    provider = str(state.get("provider") or "") or None
    order = {"video_id": video_id, "provider": provider}
    later_s = min(delay_s * GROWTH, LONGEST_DELAY_S)
    try:
        answer = await ctx.provider.video_poll(video_id, timeout=min(ctx.remaining(), LOOK_TIMEOUT), provider=provider)
    except ProviderFailure as failure:
        # A look that failed says nothing about the video; failing the attempt would use up a retry, or order it again.
        failed_looks = int(_number(state.get("failed_looks"), 0)) + 1
        if not failure.retryable or failed_looks > MOST_FAILED_LOOKS:
            raise handler_failure(failure) from None
        wait = max(min(failure.retry_after or timedelta(), LONGEST_ASKED_WAIT), timedelta(seconds=later_s))
        return poll_again(wait, {**order, "delay_s": later_s, "failed_looks": failed_looks})
    return _next(input, ctx, answer, order, delay_s=later_s)


def _next(
    input: VideoGeneration, ctx: HandlerContext, answer: Answer, order: Mapping[str, object], *, delay_s: float
) -> RawJson | PollAgain:
    status = answer.body.get("status")
    if status in READY:
        return RawJson(answer.text)
    if status in FAILED:
        raise _failure(input, answer)
    percent = answer.body.get("progress")
    ctx.progress(float(percent) if isinstance(percent, int | float) else None, word(status))
    return poll_again(_pause(answer.poll_after, delay_s), {**order, "delay_s": delay_s})


def _pause(asked: timedelta | None, delay_s: float) -> timedelta:
    if asked is None:
        return timedelta(seconds=delay_s)
    return min(max(asked, SHORTEST_ASKED_WAIT), LONGEST_ASKED_WAIT)


def _failure(input: VideoGeneration, answer: Answer) -> PermanentFailure:
    """The provider's verdict on the video: its code, and its message without the prompt."""
    error = answer.body.get("error")
    told = cast("Mapping[str, object] | None", error if isinstance(error, Mapping) else None) or NOTHING_TOLD
    message = told.get("message")
    text = filter_for(input.body(), secrets=())(message) if isinstance(message, str) else ""
    return PermanentFailure(
        f"the provider could not make the video{': ' + text if text else ''}",
        code=word(told.get("code")) or "video_failed",
    )


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
