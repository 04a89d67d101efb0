from __future__ import annotations

import signal
from collections import Counter
from functools import partial
from pathlib import Path

from core.app import App
from core.testing import FakeProvider
from tests.support.waiting import wait_until
from tests.support.worker_processes import query, running_workers, signal_all
from tests.web.serving import Site

TASKS = 300
KILLS = 4


def test_300_chats_survive_kill_9_and_the_provider_is_called_no_more_often_than_attempts_were_made(
    app: App, site: Site, provider: FakeProvider, tmp_path: Path
) -> None:
    chat = {"type": "chat.completion", "input": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}
    ids = [
        task["id"]
        for _ in range(3)
        for task in site.caller.post("/v1/tasks/batch", {"tasks": [chat] * 100}).json["tasks"]
    ]

    killed: list[int] = []
    with running_workers(app, log=tmp_path / "workers.log", worker_processes=2) as workers:
        workers.await_children(2)
        for kill in range(1, KILLS + 1):
            wait_until(partial(has_done, app, kill * 40), 60, what="progress between two kills", every=0.005)
            assert done(app) < TASKS, "the kills came too late to prove anything"
            victim = wait_until(lambda: busy_worker(app), 30, what="a worker at work", every=0.005)
            signal_all([victim], signal.SIGKILL)
            killed.append(victim)
        wait_until(lambda: done(app) == TASKS, 90, what="all tasks end")

    assert len(set(killed)) >= 3
    attempts = [row[0] for row in query(app, "SELECT attempt FROM tasks WHERE type = 'chat.completion'")]
    assert max(attempts) >= 2, "no task needed a second attempt"
    assert provider.count("/chat/completions") <= sum(attempts)
    states = Counter(site.caller.get(f"/v1/tasks/{task_id}").json["state"] for task_id in ids)
    assert states == {"completed": TASKS}
    keys = Counter(call.headers["idempotency-key"] for call in provider.calls if call.method == "POST")
    assert len(keys) == TASKS, "an attempt after a crash shows the provider the same key"


def done(app: App) -> int:
    return int(
        query(app, "SELECT count(*) FROM tasks WHERE type = 'chat.completion' AND finished_at IS NOT NULL")[0][0]
    )


def has_done(app: App, number: int) -> bool:
    return done(app) >= number


def busy_worker(app: App) -> int:
    """The pid of a process that holds tasks now; 0 for none."""
    rows = query(
        app,
        """SELECT w.pid FROM workers w JOIN tasks t ON t.worker_id = w.id
        WHERE w.died_at IS NULL GROUP BY w.pid ORDER BY count(*) DESC LIMIT 1""",
    )
    return int(rows[0][0]) if rows else 0
