"""
The provider of the demo: `llmock` unless one is configured, behind a stand-in of ours that makes images and videos.

Images and videos come from the stand-in in either case: they cost money at a real provider, and most servers have
neither. Everything else goes to the provider unchanged.
"""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from core.errors import InvalidRequest, Unavailable
from core.orphans import TiedProcess
from core.settings import Settings
from headrace.demo.announced import Models

START_S = 30.0  # llmock imports a web framework; on a busy machine that takes seconds
STOP_S = 5.0
POLL_S = 0.1
LATENCY_MS = 300  # of a mocked answer: fast, but long enough to be seen running

_NO_CHAT = ("embed", "image", "dall-e", "video", "sora", "whisper", "tts", "audio", "moderation", "rerank")


@dataclass(frozen=True, slots=True)
class DemoProvider:
    """
    Args:
        url: what the workers get as HEADRACE_PROVIDER_URL.
        story: what to tell the person who started the demo.
    """

    url: str
    story: str
    api_key: str | None

    def models(self, chat: str | None, embedding: str | None) -> Models:
        """
        Wait until the provider answers, and choose models among those it lists where none is named.

        Raises:
            Unavailable: it did not answer.
            InvalidRequest: it lists no chat model, and none is named.
        """
        listed = [] if chat is not None and embedding is not None else self._listed()
        chats = [name for name in listed if not any(word in name.lower() for word in _NO_CHAT)]
        embeddings = [name for name in listed if "embed" in name.lower()]
        if chat is None and not chats:
            raise InvalidRequest("the provider lists no chat model; name one with --chat-model")
        return Models(
            chat=chat or chats[0],
            embedding=embedding or (embeddings[0] if embeddings else None),
            image="stand-in-image",
            video="stand-in-video",
        )

    def _listed(self) -> list[str]:
        deadline = time.monotonic() + START_S
        while True:
            status, body = _get(f"{self.url}/models", self.api_key)
            if status == 200:
                return _names(body)
            if status in (401, 403, 404) or time.monotonic() > deadline:
                said = "nothing" if status is None else f"{status}: {body[:200].decode(errors='replace')}"
                raise Unavailable(f"the provider does not list its models ({said}); name one with --chat-model")
            time.sleep(POLL_S)


@contextmanager
def started_provider(settings: Settings, logs: Path) -> Generator[DemoProvider]:
    """Start what is to be started; it may not answer yet. Output goes to `provider.log` in `logs`."""
    api_key = None if settings.provider_api_key is None else settings.provider_api_key.get_secret_value()
    with ExitStack() as stack, (logs / "provider.log").open("wb") as log:
        if settings.provider_url is not None:
            origin: str | None = settings.provider_url
            told = f"chats and embeddings by the configured provider {_without_user(settings.provider_url)}"
        elif find_spec("llmock") is not None:
            port = _free_port()
            arguments = ["serve", "--port", str(port), "--latency-ms", str(LATENCY_MS), "--log-level", "warning"]
            stack.enter_context(_running(["-m", "llmock.cli", *arguments], stdout=log, stderr=log))
            origin, told = f"http://127.0.0.1:{port}/v1", "chats and embeddings by llmock (no provider is configured)"
        else:
            origin, told = None, "chats and embeddings by a stand-in of our own (llmock is not installed)"
        arguments = ["--forward", origin] if origin else []
        media = stack.enter_context(
            _running(["-m", "core.testing", "media", *arguments], stdout=subprocess.PIPE, stderr=log)
        )
        yield DemoProvider(_first_line(media), f"{told}; images and videos by a stand-in", api_key)


@contextmanager
def _running(words: Sequence[str], *, stdout: Any, stderr: Any) -> Generator[TiedProcess]:  # what Popen takes
    process = TiedProcess(
        [sys.executable, *words],
        death_signal=signal.SIGTERM,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill_group()
            process.wait()
        if process.process.stdout is not None:
            process.process.stdout.close()


def _first_line(process: TiedProcess) -> str:
    stdout = process.process.stdout
    if stdout is None:
        raise AssertionError("its output was asked for")
    ready, _, _ = select.select([stdout], [], [], START_S)
    line = stdout.readline().decode().strip() if ready else ""
    if not line:
        raise Unavailable("the stand-in provider did not start; see provider.log in the data directory")
    return line


def _get(url: str, api_key: str | None) -> tuple[int | None, bytes]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=START_S)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException):
        return None, b""
    finally:
        connection.close()


def _names(body: bytes) -> list[str]:
    """Of `{"data": [{"id": "gpt-4o"}, ...]}`."""
    try:
        return [str(model["id"]) for model in orjson.loads(body)["data"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Unavailable("the provider's list of models cannot be read; name one with --chat-model") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
