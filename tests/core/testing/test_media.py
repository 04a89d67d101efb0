"""The media server as a process: one URL for everything, gone with the process that started it."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast
from urllib.parse import urlsplit

import pytest

from core.providers.errors import ProviderFailure
from core.providers.openai_compatible import Provider
from core.testing import FakeProvider
from tests.support.waiting import wait_until

TEN_SECONDS = timedelta(seconds=10)
COMMAND = [sys.executable, "-m", "core.testing", "media"]


@contextmanager
def media(*arguments: str) -> Generator[str]:
    """The URL of a media server that is stopped afterwards, and must stop cleanly."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            code = process.wait(10)
    assert code == 0


def test_images_and_videos_are_served_and_the_rest_is_handed_on() -> None:
    with FakeProvider() as chat_server, media("--forward", chat_server.url, "--video-seconds", "0.2") as url:

        async def body() -> tuple[bytes, str]:
            provider = Provider(url, "sk-of-a-test")
            painted = await provider.image_generation({"prompt": "a lake"}, timeout=TEN_SECONDS)
            await provider.chat_completion({"model": "m", "messages": []}, timeout=TEN_SECONDS, idempotency_key="k")
            video = await provider.video_submit({"prompt": "a lake"}, timeout=TEN_SECONDS)
            async with asyncio.timeout(10):
                while (look := await provider.video_poll(str(video.body["id"]), timeout=TEN_SECONDS)) and (
                    look.body["status"] != "completed"
                ):
                    await asyncio.sleep(0.05)
            await provider.close()
            image = cast("list[dict[str, str]]", painted.body["data"])[0]
            return base64.b64decode(image["b64_json"]), str(look.body["progress"])

        image, progress = asyncio.run(body())

        (handed_on,) = chat_server.calls
    assert image.startswith(b"\x89PNG")
    assert progress == "100"
    assert handed_on.path == "/v1/chat/completions"
    assert handed_on.headers["authorization"] == "Bearer sk-of-a-test"
    assert handed_on.headers["idempotency-key"] == "k"


def test_absent_forward_address_is_a_retryable_failure() -> None:
    with FakeProvider() as gone:
        base_url = gone.url
    with media("--forward", base_url) as url, pytest.raises(ProviderFailure) as caught:
        asyncio.run(Provider(url, None).chat_completion({"model": "m", "messages": []}, timeout=TEN_SECONDS))

    assert caught.value.code == "provider_unavailable"


def test_server_ends_when_its_parent_is_killed() -> None:
    starter = f"import subprocess, time; subprocess.Popen({COMMAND!r}); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = urlsplit(parent.stdout.readline().strip())
        assert accepts(address.port)

        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not accepts(address.port), what="the media server to end")


def accepts(port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0
