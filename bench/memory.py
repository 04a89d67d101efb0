"""What a web and a worker process weigh after 1,000 tasks, a tenth of them chats, so that the provider's SDK is in."""

from __future__ import annotations

import json
import urllib.request

from bench.figures import Report
from bench.processes import memory_mb
from bench.size import Size
from bench.system import PAYLOAD, Servers, connect, number, ready_worker, web
from core.settings import Settings
from core.testing import FakeProvider
from headrace import open_app

TASKS = 1_000
CHATS_EVERY = 10
BATCH = 100
UNFINISHED = "SELECT count(*) FROM tasks WHERE finished_at IS NULL"


def expect(report: Report) -> None:
    report.expect("rss_web_mb", "<", 120)
    report.expect("rss_worker_mb", "<", 120)


def run(servers: Servers, size: Size, report: Report) -> None:
    """All tasks go in and are polled over HTTP; then resident memory is read."""
    with FakeProvider() as provider:
        settings = servers.fresh("bench_memory", provider_url=provider.url)
        with open_app(settings) as app:
            key = app.keys.create(name="bench").clear_key
        with (
            web(settings, servers.logs) as web_child,
            ready_worker(settings, servers.logs) as worker_child,
            connect(settings) as connection,
        ):
            ids = [task for _ in range(TASKS // BATCH) for task in _enqueue(settings, key)]
            worker_child.wait_until(lambda: number(connection, UNFINISHED) == 0, what="all tasks", timeout_s=120)
            for task in ids:
                _call(settings, key, "GET", f"/v1/tasks/{task}")
            failed = number(connection, "SELECT count(*) FROM tasks WHERE state <> 'completed'")
            if failed:
                raise RuntimeError(f"{failed} of {TASKS} tasks did not complete")
            _weigh(report, web_child.pid, worker_child.pid)


def _weigh(report: Report, web_pid: int, supervisor_pid: int) -> None:
    report.add("rss_web_mb", max(memory_mb(web_pid).values()))
    family = memory_mb(supervisor_pid)
    report.add("rss_supervisor_mb", family.pop(supervisor_pid))
    report.add("rss_worker_mb", max(family.values()))


def _enqueue(settings: Settings, key: str) -> list[str]:
    chat = {"model": "bench", "messages": [{"role": "user", "content": "hello"}]}
    tasks = [
        {"type": "chat.completion", "input": chat}
        if place % CHATS_EVERY == 0
        else {"type": "diagnostic.noop", "input": {"payload": PAYLOAD}}
        for place in range(BATCH)
    ]
    answer = json.loads(_call(settings, key, "POST", "/v1/tasks/batch", {"tasks": tasks}))
    return [str(task["id"]) for task in answer["tasks"]]


def _call(settings: Settings, key: str, method: str, path: str, body: object = None) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{settings.port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        content = answer.read()
        assert isinstance(content, bytes)
        return content
