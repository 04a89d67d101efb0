"""Runs `embedding`."""

from __future__ import annotations

from core.task_types.embedding import Embedding
from workers.context import HandlerContext, RawJson
from workers.handlers.provider_calls import provider_failures


async def handle(input: Embedding, ctx: HandlerContext) -> RawJson:
    """
    Ask the provider once; its answer is the result, unchanged, usage included.

    Runs twice: nothing of ours is doubled, but the provider may do (and charge) the work again when the first answer
    was lost. Every attempt sends the task's id as Idempotency-Key, so that a provider that honours it answers from
    the first.
    """
    with provider_failures():
        answer = await ctx.provider.embedding(input.body(), timeout=ctx.remaining(), idempotency_key=ctx.task_id)
    return RawJson(answer.text)
