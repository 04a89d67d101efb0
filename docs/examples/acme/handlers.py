"""What Acme's workers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.context import HandlerContext, PermanentFailure
from workers.handlers.provider_calls import provider_failures

if TYPE_CHECKING:
    from acme.tasks import Translation


async def translate(input: Translation, ctx: HandlerContext) -> dict[str, list[str]]:
    """
    Ask the provider for each text; the result is `{"texts": [...]}` in the same order.

    Runs twice: each text has its own idempotency key, the same in every attempt, so that a provider that honours it
    does no text twice.
    """
    translated: list[str] = []
    for number, text in enumerate(input.texts):
        ctx.check()
        ctx.progress(100 * number / len(input.texts), f"text {number + 1} of {len(input.texts)}")
        body = {
            "model": input.model,
            "messages": [
                {"role": "system", "content": f"Translate into {input.language}. Answer with the translation only."},
                {"role": "user", "content": text},
            ],
        }
        with provider_failures():
            answer = await ctx.provider.chat_completion(
                body, timeout=ctx.remaining(), idempotency_key=f"{ctx.task_id}-{number}"
            )
        translated.append(_text_of(answer.body))
    return {"texts": translated}


def _text_of(answer: object) -> str:
    match answer:
        case {"choices": [{"message": {"content": str(content)}}, *_]}:
            return content
        case _:
            raise PermanentFailure("the model answered without a text", code="acme_no_text")
