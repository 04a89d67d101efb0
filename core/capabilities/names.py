"""
What a model's name tells: a small table of families whose abilities are documented by who makes them. Pure.

The first row whose pattern the whole name matches counts. A name may have a vendor before it (`openai/gpt-5`). `no` is
only for models that serve another endpoint altogether; whatever is in doubt is left out, and so unknown.
"""

from __future__ import annotations

import re
from functools import lru_cache

from core.capabilities.model import Ability, Answer, Finding, Findings, Source

_DATE = r"(-\d{4}(-\d\d-\d\d)?)?"
_END = r"([-_.:@].*)?"

_CHAT = "chat"
_EYES = "chat vision tools"
_ONLY_CHAT = "embeddings images video"
_NO_CHAT = "chat vision tools"

TABLE: tuple[tuple[str, str, str], ...] = (
    # pattern, what it can, what it cannot
    (r"text-embedding-(ada-002|3-small|3-large)", "embeddings", f"{_NO_CHAT} images video audio"),
    (
        r"(?!.*rerank)((.*[-_.])?(embed|embedding|embeddings)|bge|gte|e5|all-minilm|voyage)" + _END,
        "embeddings",
        f"{_NO_CHAT} video",
    ),
    (r"(omni|text)-moderation" + _END, "", f"{_NO_CHAT} embeddings images video audio"),
    (r"(dall-e-[23]|(chat)?gpt-image-.*|imagen-.*)", "images", f"{_NO_CHAT} embeddings video audio"),
    (r"(stable-diffusion|sdxl|flux)" + _END, "images", f"{_NO_CHAT} embeddings audio"),
    (r"(sora|veo)-.*", "video", f"{_NO_CHAT} embeddings images"),
    (r"(whisper|tts)-.*|gpt-4o(-mini)?-(tts|transcribe).*", "audio", f"{_NO_CHAT} embeddings images video"),
    (r"gpt-audio(-mini)?|gpt-4o(-mini)?-audio-preview" + _DATE, "chat audio", "embeddings images video"),
    (r"(chatgpt-4o-latest|gpt-4o(-mini)?|gpt-4\.1(-mini|-nano)?)" + _DATE, _EYES, _ONLY_CHAT),
    (r"gpt-[56](\.\d)?(-mini|-nano)?" + _DATE, _EYES, _ONLY_CHAT),
    (r"gpt-4-turbo" + _DATE, _EYES, f"{_ONLY_CHAT} audio"),
    (r"gpt-(4|3\.5-turbo)(-16k)?" + _DATE, "chat tools", f"{_ONLY_CHAT} audio"),
    (r"(o1|o3|o4-mini)" + _DATE, _EYES, f"{_ONLY_CHAT} audio"),
    (r"o3-mini" + _DATE, "chat tools", f"{_ONLY_CHAT} audio"),
    (r"claude-(3|.*(sonnet|opus|haiku)).*", _EYES, f"{_ONLY_CHAT} audio"),
    (r"gemini-\d(\.\d)?-(pro|flash|flash-lite)", f"{_EYES} audio", "embeddings video"),
    (r"mistral-(tiny|small|medium|large)" + _END, _CHAT, "images video"),
    (r"deepseek-(chat|reasoner)", _CHAT, _ONLY_CHAT),
    (r"(.*[-_.:])?(chat|instruct)" + _END, _CHAT, ""),
)


def findings_of_name(model: str) -> Findings:
    """What is known by the name alone; empty for most."""
    name = model.lower().rpartition("/")[2]
    for pattern, can, cannot in _rows():
        if pattern.fullmatch(name):
            yes = {Ability(word): Finding(Answer.YES, Source.NAME) for word in can.split()}
            return yes | {Ability(word): Finding(Answer.NO, Source.NAME) for word in cannot.split()}
    return {}


@lru_cache(maxsize=1)
def _rows() -> tuple[tuple[re.Pattern[str], str, str], ...]:
    return tuple((re.compile(pattern), can, cannot) for pattern, can, cannot in TABLE)
