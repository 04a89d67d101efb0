"""
What a request to another gateway is about, as far as its address tells: OpenAI's paths name the kind of work. Pure.

A gateway's forward-auth sends no body, so the model is not known here; `POST /v1/keys/verify` takes it.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

LONGEST_URI = 8_192

_TYPES = {
    "/chat/completions": "chat.completion",
    "/embeddings": "embedding",
    "/images/generations": "image.generation",
    "/videos": "video.generation",
}


def task_type_of(method: str, uri: str) -> str | None:
    """
    The task type that stands for this work, or None: the request makes no such work.

    Args:
        uri: as the client sent it, e.g. `/v1/chat/completions?x=1`; a prefix before OpenAI's path does not matter.
    """
    if method.upper() != "POST":
        return None
    try:
        path = unquote(urlsplit(uri[:LONGEST_URI]).path)
    except ValueError:  # brackets that are no IPv6 address
        return None
    path = "/" + "/".join(part for part in path.split("/") if part)  # what servers fold, is folded here
    return next((name for end, name in _TYPES.items() if path.lower().endswith(end)), None)
