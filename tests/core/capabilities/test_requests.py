"""Who asks for discoveries, and that many who ask make one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.app import App, open_app
from core.capabilities.requests import SYSTEM, NoEnabledProvider
from core.errors import ProviderNotFound, UnknownTaskType
from core.providers.model import NewProvider, ProviderChange
from core.settings import child_environment
from core.task_types.capability_discovery import CapabilityDiscovery
from core.testing import FakeProvider, Fault
from jobs.periodic import cache_capabilities
from jobs.spec import JobContext
from tests.core.capabilities.conftest import Discover, listing
from tests.support.waiting import wait_until
from tests.support.worker_processes import CHECKOUT, query, running_workers

PROCESSES = 100

# A hundred processes that start: forked after the imports, which would take half a minute of two cores, and before
# anything else. Each opens the application and connects; then the pipe's end lets all of them ask at one moment.
_STARTING = """
import os, sys
from core.app import open_app

start, let_go = os.pipe()
ready, is_ready = os.pipe()
children = []
for _ in range({processes}):
    pid = os.fork()
    if pid == 0:
        os.close(let_go)
        status = 1
        try:
            with open_app() as app:
                app.check()
                os.write(is_ready, b".")
                os.read(start, 1)
                for request in app.discoveries.request_stale():
                    os.write(1, request.task_id.encode() + b"\\n")
            status = 0
        finally:
            os._exit(status)
    children.append(pid)
os.close(is_ready)
there = 0
while there < {processes} and os.read(ready, 1):
    there += 1
os.close(let_go)
ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
sys.exit(0 if there == {processes} and not any(ended) else 1)
"""


def job_context(app: App) -> JobContext:
    return JobContext(
        app=app, name="cache_capabilities", due_at=datetime.now(UTC), attempt=1, log=logging.getLogger(__name__)
    )


def tasks(app: App) -> list[str]:
    rows = query(app, "SELECT input, owner_id FROM tasks WHERE type = 'internal.capability_discovery'")
    assert {row[1] for row in rows} <= {SYSTEM}
    return [json.loads(row[0])["provider"] for row in rows]


def forget_requests(app: App) -> None:
    with app.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM tasks")
        connection.exec_driver_sql("UPDATE provider_discoveries SET requested_at = NULL, task_id = NULL")


def test_a_hundred_processes_that_start_at_once_cause_one_discovery(app: App, acme: str) -> None:
    forget_requests(app)

    started = subprocess.run(
        [sys.executable, "-c", _STARTING.format(processes=PROCESSES)],
        cwd=CHECKOUT,
        env=child_environment(app.settings),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )

    assert started.returncode == 0
    assert len(started.stdout.split()) == 1
    assert tasks(app) == [acme]


def test_many_rounds_of_threads_that_ask_at_once_make_one_task_each(app: App, acme: str) -> None:
    for _ in range(20):
        forget_requests(app)
        barrier = threading.Barrier(8)

        def ask(barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            app.discoveries.request_stale()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert tasks(app) == [acme]


def test_operators_who_ask_at_once_share_the_task_that_waits(app: App, acme: str) -> None:
    forget_requests(app)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.extend(t.task_id for t in app.discoveries.request_now()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1
    assert tasks(app) == [acme]


def test_a_young_list_is_not_asked_for_again_unless_an_operator_wants_it(
    app: App, acme: str, discover: Discover
) -> None:
    discover()
    forget_requests(app)

    assert app.discoveries.request_stale() == []
    assert [request.provider for request in app.discoveries.request_now(acme)] == [acme]


def test_a_stale_list_is_asked_for_again(app: App, acme: str, discover: Discover) -> None:
    discover()
    forget_requests(app)
    with app.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE provider_discoveries SET discovered_at = now() - interval '25 hours'")
        connection.exec_driver_sql("UPDATE providers SET changed_at = now() - interval '26 hours'")

    assert [request.provider for request in app.discoveries.request_stale()] == [acme]


def test_adding_and_changing_a_provider_asks_it(app: App, provider: FakeProvider) -> None:
    app.providers.add(NewProvider(name="acme", base_url=provider.url))
    assert tasks(app) == ["acme"]

    forget_requests(app)
    app.providers.update("acme", ProviderChange(priority=3))
    assert tasks(app) == ["acme"]


def test_a_disabled_provider_is_not_asked(app: App, acme: str, provider: FakeProvider, discover: Discover) -> None:
    app.providers.disable(acme)
    forget_requests(app)

    assert app.discoveries.request_stale() == []
    with pytest.raises(NoEnabledProvider):
        app.discoveries.request_now()
    with pytest.raises(NoEnabledProvider):
        app.discoveries.request_now(acme)
    assert not discover().is_current
    assert provider.calls == []


def test_nobody_can_ask_an_unknown_provider(app: App) -> None:
    with pytest.raises(ProviderNotFound):
        app.discoveries.request_now("nobody")


def test_producers_cannot_make_the_internal_task(app: App) -> None:
    owner = app.keys.create("producer").key_id

    with pytest.raises(UnknownTaskType):
        app.tasks.enqueue(CapabilityDiscovery(provider="acme"), owner=owner)


def test_the_daily_job_asks_every_enabled_provider_once(app: App, acme: str) -> None:
    forget_requests(app)

    assert cache_capabilities.run(job_context(app)) == "asked for 1 discoveries"
    assert cache_capabilities.run(job_context(app)) == "asked for 0 discoveries"
    assert tasks(app) == [acme]


def test_a_worker_discovers_the_provider_of_the_settings(app: App, provider: FakeProvider, tmp_path: Path) -> None:
    provider.fail("/models", listing("from-the-settings"), times=None)
    settings = app.settings.model_copy(update={"provider_url": provider.url})
    with (
        open_app(settings) as configured,
        running_workers(configured, log=tmp_path / "workers.log", worker_threads=2),
    ):
        [request] = configured.discoveries.request_stale()

        done = configured.tasks.wait(request.task_id)

        assert done["state"] == "completed", done
        assert done["result"] == {"provider": "default", "models": 1, "skipped": 0, "is_current": True}
        wait_until(lambda: configured.capabilities.current().listed("from-the-settings"), what="the model is known")
        assert [row.discovered_at is not None for row in configured.providers.list()] == [True]
        configured.capabilities.close()


def test_a_worker_tries_a_failed_discovery_again(app: App, acme: str, provider: FakeProvider, tmp_path: Path) -> None:
    provider.fail("/models", Fault(status=503, retry_after="0"))
    with running_workers(app, log=tmp_path / "workers.log", worker_threads=2):
        [request] = app.discoveries.request_now(acme)

        done = app.tasks.wait(request.task_id)

    assert done["state"] == "completed", done
    assert done["attempt"] == 2
    assert app.capabilities.refresh().listed("fake-chat")
