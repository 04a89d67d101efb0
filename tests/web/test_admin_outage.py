"""The admin API with the database gone: 503 in time, and never a 401."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from core.settings import Settings
from tests.web.serving import Caller, Reply, running_web

TASK: dict[str, Any] = {"type": "diagnostic.noop", "input": {}}
REQUESTS = [
    ("GET", "/v1/admin/jobs", None),
    ("GET", "/v1/admin/jobs/prune/history", None),
    ("POST", "/v1/admin/jobs/prune/run", None),
    ("POST", "/v1/admin/jobs/prune/pause", None),
    ("GET", "/v1/admin/schedules", None),
    ("POST", "/v1/admin/schedules", {"name": "x", "every_s": 60, "owner": "abc", "task": TASK}),
    ("POST", "/v1/admin/schedules/preview", {"every_s": 60}),
    ("PATCH", "/v1/admin/schedules/x", {"enabled": False}),
    ("DELETE", "/v1/admin/schedules/x", None),
]


@pytest.fixture(params=["refused", "blackholed"])
def severed(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Generator[Caller]:
    """A web process whose database is a port where nobody listens, or where nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if request.param == "refused":
            listener.close()
        url = SecretStr(f"postgresql://nobody@127.0.0.1:{port}/nothing")
        away = settings.model_copy(update={"database_url": url})
        with running_web(away, tmp_path / "web.log", ready=False) as web:
            assert away.admin_key is not None
            yield Caller(web.url, away.admin_key.get_secret_value())


def test_every_request_is_503_within_two_seconds(severed: Caller) -> None:
    def answered(request: tuple[str, str, Any]) -> tuple[Reply, float]:
        method, path, body = request
        data = None if body is None else json.dumps(body).encode()
        began = time.monotonic()
        return severed.send(method, path, data, {"Content-Type": "application/json"}), time.monotonic() - began

    with ThreadPoolExecutor(len(REQUESTS)) as threads:
        answers = list(threads.map(answered, REQUESTS))

    for (method, path, _), (reply, took_s) in zip(REQUESTS, answers, strict=True):
        assert reply.status == 503, (method, path, reply)
        assert int(reply.headers["retry-after"]) >= 1
        # The promise is two seconds; the rest is this machine's own.
        assert took_s < 3, (method, path)
    # Nor is a wrong key a 401: whether its sender may come in at all is not known before the IP filters were read.
    assert severed.with_key("x").get("/v1/admin/jobs").status == 503
