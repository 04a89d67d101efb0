"""What the fake provider answers: bodies in the shape of the OpenAI API, the same for the same request."""

from __future__ import annotations

import base64
import hashlib
import struct
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

Body = dict[str, object]
MODELS = ("fake-chat", "fake-embedding", "fake-image", "fake-video")


def error(message: str, *, code: str | None = None) -> Body:
    return {"error": {"message": message, "type": "fake_error", "param": None, "code": code}}


def no_such_path(method: str, path: str) -> tuple[int, Body]:
    return 404, error(f"no such path: {method} {path}")


def models() -> Body:
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "fake"} for name in MODELS],
    }


def chat_completion(request: Body) -> Body:
    """`n` choices that repeat the last message's text in capitals, with usage counted in words."""
    said = _last_text(request)
    count = _whole(request.get("n"), 1)
    prompt_tokens, completion_tokens = len(said.split()) or 1, count * (len(said.split()) or 1)
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": str(request.get("model", "fake-chat")),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": said.upper(), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
            for index in range(count)
        ],
        "usage": _usage(prompt_tokens, completion_tokens),
    }


def embedding(request: Body) -> Body:
    """A vector of `dimensions` (8 unless told) for each input, floats or base64 as asked."""
    given = request.get("input", "")
    inputs: list[object] = cast("list[object]", given) if isinstance(given, list) else [given]
    if inputs and isinstance(inputs[0], int):
        inputs = [given]
    vectors = [_vector(repr(entry), _whole(request.get("dimensions"), 8)) for entry in inputs]
    packed = request.get("encoding_format") == "base64"
    usage = _usage(sum(len(str(entry).split()) for entry in inputs) or 1, 0)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(vectors)
        ],
        "model": str(request.get("model", "fake-embedding")),
        "usage": usage,
    }


def image_generation(request: Body) -> Body:
    """`n` real PNG images whose colour depends on the prompt, in base64 (or a data URL when URLs are asked for)."""
    prompt = str(request.get("prompt", ""))
    key = "url" if request.get("response_format") == "url" else "b64_json"
    data: list[Body] = []
    for index in range(_whole(request.get("n"), 1)):
        encoded = base64.b64encode(png(f"{prompt}{index}")).decode()
        data.append({key: f"data:image/png;base64,{encoded}" if key == "url" else encoded})
    return {"created": int(time.time()), "data": data, "usage": _usage(len(prompt.split()) or 1, 0)}


def png(seed: str, *, side: int = 32) -> bytes:
    """A square PNG of `side` pixels, a gradient in the colour of `seed`."""
    red, green, blue = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()[:3]
    rows = b"".join(
        b"\x00" + bytes(value * (row + 1) // side for _ in range(side) for value in (red, green, blue))
        for row in range(side)
    )
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


@dataclass
class Videos:
    """
    Videos on order. Each is ready after `polls` looks, or once `seconds` have passed, whichever is set.

    The same idempotency key gets the same video, as a provider does that honours it.
    """

    polls: int = 2
    seconds: float | None = None
    _made: dict[str, _Video] = field(default_factory=dict[str, "_Video"])
    _by_key: dict[str, str] = field(default_factory=dict[str, str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        """How many were ordered, each idempotency key once."""
        return len(self._made)

    def submit(self, request: Body, key: str | None) -> Body:
        with self._lock:
            known = self._by_key.get(key) if key else None
            if known is not None:
                return self._made[known].body(self)
            video = _Video(f"video_{uuid4().hex}", request)
            self._made[video.id] = video
            if key:
                self._by_key[key] = video.id
            return video.body(self)

    def look(self, video_id: str) -> Body | None:
        with self._lock:
            video = self._made.get(video_id)
            if video is None:
                return None
            video.looks += 1
            return video.body(self)


@dataclass
class _Video:
    id: str
    request: Body
    looks: int = 0
    ordered_at: int = field(default_factory=lambda: int(time.time()))
    ordered_s: float = field(default_factory=time.monotonic)

    def body(self, videos: Videos) -> Body:
        if videos.seconds is not None:
            done = (time.monotonic() - self.ordered_s) / videos.seconds if videos.seconds > 0 else 1.0
        else:
            done = self.looks / videos.polls if videos.polls > 0 else 1.0
        ready = done >= 1
        return {
            "id": self.id,
            "object": "video",
            "created_at": self.ordered_at,
            "completed_at": int(time.time()) if ready else None,
            "status": "completed" if ready else "in_progress" if done > 0 else "queued",
            "progress": min(100, int(done * 100)),
            "model": str(self.request.get("model", "fake-video")),
            "prompt": self.request.get("prompt"),
            "seconds": str(self.request.get("seconds", "4")),
            "size": str(self.request.get("size", "720x1280")),
            "error": None,
        }


def _last_text(request: Body) -> str:
    messages = request.get("messages")
    last = cast("list[Body]", messages)[-1] if isinstance(messages, list) and messages else {}
    content = last.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in cast("list[Body]", content))
    return str(content or "")


def _usage(prompt_tokens: int, completion_tokens: int) -> Body:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _vector(seed: str, size: int) -> list[float]:
    digest = hashlib.shake_256(seed.encode(errors="surrogatepass")).digest(2 * size)
    return [(number - 32768) / 32768 for (number,) in struct.iter_unpack(">H", digest)]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default
