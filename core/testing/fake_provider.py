"""
An OpenAI-compatible provider for tests: a real HTTP server on loopback that records every request and fails on order.

It answers /v1/models, /v1/chat/completions, /v1/embeddings, /v1/images/generations and /v1/videos. It checks no keys.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from core.testing import answers
from core.testing.calls import Call, Fault
from core.testing.provider_server import ProviderServer

KEPT_CALLS = 10_000


class FakeProvider:
    """
    Use as a context manager, or call `close()`.

    Args:
        latency_s: every answer takes this long.
        forward_to: base URL of a provider (`https://host/v1`) that gets every path but `images` and `videos`.
        record: keep the calls (the last 10,000).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        video_polls: int = 2,
        video_seconds: float | None = None,
        poll_after_ms: int | None = None,
        forward_to: str | None = None,
        record: bool = True,
    ) -> None:
        self.latency_s = latency_s
        self.videos = answers.Videos(polls=video_polls, seconds=video_seconds)
        self.poll_after_ms = poll_after_ms
        self.forward_to = forward_to
        self.closing = threading.Event()
        self._kept: deque[Call] = deque(maxlen=KEPT_CALLS if record else 0)
        self._counts: Counter[str] = Counter()
        self._faults: list[tuple[str, Fault, int | None]] = []
        self._changed = threading.Condition()
        self._server = ProviderServer(("127.0.0.1", port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake-provider", daemon=True
        )
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """What HEADRACE_PROVIDER_URL is set to."""
        return f"{self.origin}/v1"

    @property
    def calls(self) -> list[Call]:
        with self._changed:
            return list(self._kept)

    def count(self, path: str) -> int:
        """Requests so far whose path ends in `path`, e.g. `/chat/completions`, however they ended."""
        with self._changed:
            return sum(number for known, number in self._counts.items() if known.endswith(path))

    def fail(self, path: str, fault: Fault, *, times: int | None = 1) -> None:
        """Let the next `times` requests whose path contains `path` go wrong; None: all of them until `heal`."""
        with self._changed:
            self._faults.append((path, fault, times))

    def heal(self) -> None:
        with self._changed:
            self._faults.clear()

    def wait_for(self, condition: Callable[[FakeProvider], bool], *, timeout_s: float = 10.0) -> None:
        """
        Wait until `condition(self)` holds; looked at after each request and each end of one.

        Raises:
            TimeoutError: it did not.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition(self):
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise TimeoutError(f"not within {timeout_s} s; requests so far: {dict(self._counts)}")

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def received(self, call: Call) -> Fault:
        """Record a request; the fault that waits for it, if any."""
        with self._changed:
            self._kept.append(call)
            self._counts[call.path] += 1
            fault = self._take_fault(call.path)
            self._changed.notify_all()
        return fault

    def ended(self, call: Call, outcome: str) -> None:
        with self._changed:
            call.outcome = outcome
            self._changed.notify_all()

    def answer(self, call: Call) -> tuple[int, answers.Body]:
        """Status and body of a request without a fault."""
        resource = call.path.removeprefix("/v1")
        if call.method == "GET":
            return self._looked_up(resource)
        make = self._makers.get(resource)
        if call.method != "POST" or make is None:
            return answers.no_such_path(call.method, call.path)
        try:
            request = call.json
        except ValueError:
            return 400, answers.error("the body is not JSON")
        return 200, make(request, call.headers.get("idempotency-key"))

    @property
    def _makers(self) -> dict[str, Callable[[answers.Body, str | None], answers.Body]]:
        return {
            "/chat/completions": lambda request, _: answers.chat_completion(request),
            "/embeddings": lambda request, _: answers.embedding(request),
            "/images/generations": lambda request, _: answers.image_generation(request),
            "/videos": self.videos.submit,
        }

    def _looked_up(self, resource: str) -> tuple[int, answers.Body]:
        if resource == "/models":
            return 200, answers.models()
        video = self.videos.look(resource.removeprefix("/videos/"))
        return (404, answers.error("no such video")) if video is None else (200, video)

    def _take_fault(self, path: str) -> Fault:
        for index, (wanted, fault, times) in enumerate(self._faults):
            if wanted in path:
                if times == 1:
                    del self._faults[index]
                elif times is not None:
                    self._faults[index] = (wanted, fault, times - 1)
                return fault
        return Fault()
