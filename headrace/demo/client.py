"""
A client as anybody would write it: one kept connection, ETags, and a new try when the server says "later".

Standard library only, so that nothing but the API's contract is needed to understand it. Not thread-safe.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import orjson

from core.errors import InvalidRequest, Unavailable
from headrace.demo.announced import Json

TIMEOUT_S = 10.0
TRIES = 4
PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Read:
    """
    One status read.

    Args:
        task: None when nothing has changed since the ETag that was sent (304).
        source: where the server had it from: memory, redis or database.
    """

    task: Json | None
    etag: str | None
    source: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class ApiClient:
    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT_S)
        self._authorization = f"Bearer {key}"

    def enqueue(self, body: Json, *, idempotency_key: str) -> Json:
        """Accept a task; sent again with the same idempotency key when the answer is lost."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        return _task(self._send("POST", "/v1/tasks", headers, orjson.dumps(body)), 202)

    def read(self, task_id: str, etag: str | None = None) -> Read:
        headers = {} if etag is None else {"If-None-Match": etag}
        answer = self._send("GET", f"/v1/tasks/{task_id}", headers)
        source = answer.headers.get("headrace-status-from", "unknown")
        if answer.status == 304:
            return Read(None, etag, source)
        return Read(_task(answer, 200), answer.headers.get("etag"), source)

    def cancel(self, task_id: str) -> None:
        answer = self._send("POST", f"/v1/tasks/{task_id}/cancel", {})
        if answer.status not in (200, 202, 409):  # 409: it has ended meanwhile, which the next read will tell
            raise _unexpected(answer)

    def close(self) -> None:
        self._connection.close()

    def _send(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> _Answer:
        for left in reversed(range(TRIES)):
            try:
                self._connection.request(method, path, body, {"Authorization": self._authorization, **headers})
                answer = _received(self._connection.getresponse())
            except (OSError, HTTPException) as error:
                self._connection.close()
                if left == 0:
                    raise Unavailable(f"{method} {path}: no answer ({error!r})") from error
                time.sleep(PAUSE_S)
                continue
            if answer.status != 503 or left == 0:
                return answer
            time.sleep(min(float(answer.headers.get("retry-after", PAUSE_S)), TIMEOUT_S))
        raise AssertionError("the last try returns or raises")


def _received(response: HTTPResponse) -> _Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return _Answer(response.status, headers, response.read())


def _task(answer: _Answer, expected: int) -> Json:
    if answer.status != expected:
        raise _unexpected(answer)
    task: Json = orjson.loads(answer.body)
    return task


def _unexpected(answer: _Answer) -> InvalidRequest | Unavailable:
    try:
        problem: Any = orjson.loads(answer.body)
        said = str(problem.get("detail") or problem.get("title"))
    except (orjson.JSONDecodeError, AttributeError):
        said = answer.body[:200].decode(errors="replace")
    message = f"the server answered {answer.status}: {said}"
    return Unavailable(message) if answer.status >= 500 else InvalidRequest(message)
