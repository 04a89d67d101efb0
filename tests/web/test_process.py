"""`python -m web` as a process: how it starts, says what is wrong, stops, and how much memory it takes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.app import App
from core.settings import Settings, child_environment
from tests.support.databases import fresh_database
from tests.support.waiting import wait_until
from tests.web.serving import CHECKOUT, NOOP, Site, WebProcess, running_web


def run_web(settings: Settings, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**child_environment(settings), **environ}
    return subprocess.run(
        [sys.executable, "-m", "web"], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_stops_with_0_on_sigterm_and_has_its_title(own_site: Site) -> None:
    title = Path(f"/proc/{own_site.web.process.pid}/cmdline")
    assert not title.exists() or b"headrace-web" in title.read_bytes()
    assert own_site.web.is_ready()
    assert own_site.caller.get("/live").json == {"status": "live"}

    assert own_site.web.stop() == 0
    assert "Traceback" not in own_site.web.text()


def test_a_bad_setting_is_one_line_and_status_2(settings: Settings) -> None:
    done = run_web(settings, HEADRACE_PORT="many")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "HEADRACE_PORT" in done.stderr


def test_a_port_in_use_is_one_line_and_status_2(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_web(settings, HEADRACE_PORT=str(taken.getsockname()[1]))

    assert done.returncode == 2
    assert "in use" in done.stderr.splitlines()[-1]


def test_a_database_at_another_revision_is_one_line_and_status_2(settings: Settings, app: App) -> None:
    with fresh_database(_url(settings), migrated=False) as url:
        done = run_web(settings.model_copy(update={"database_url": SecretStr(url), "port": 0}))

    assert done.returncode == 2
    assert "core.schema upgrade" in done.stderr.splitlines()[-1]


def test_without_a_database_it_starts_and_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = settings.model_copy(update={"database_url": SecretStr(f"postgresql://nobody@127.0.0.1:{port}/none")})

    with running_web(away, tmp_path / "web.log", ready=False) as web:
        assert web.caller.get("/live").status == 200
        ready = web.caller.get("/ready")
        assert (ready.status, ready.headers["content-type"]) == (503, "application/problem+json")
        assert int(ready.headers["retry-after"]) >= 1
        assert web.stop() == 0


def test_ready_turns_false_while_it_stops(own_site: Site) -> None:
    kept = own_site.caller.keep()
    assert kept.get("/ready").status == 200

    own_site.web.process.terminate()
    wait_until(lambda: kept.get("/ready").status == 503, 2, every=0.005)

    assert own_site.web.process.wait(20) == 0


def test_memory_stays_below_120_mib_after_a_thousand_tasks(own_site: Site) -> None:
    caller = own_site.caller.keep()
    ids = [caller.post("/v1/tasks", {**NOOP, "input": {"payload": "x" * 200}}).json["id"] for _ in range(1000)]
    for task_id in ids:
        assert caller.get(f"/v1/tasks/{task_id}").status == 200

    assert own_site.web.rss_mib() < 120


def test_the_web_process_imports_no_provider_client_and_no_worker() -> None:
    code = "import sys, web.server; print([m for m in ('openai', 'dramatiq', 'apscheduler') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def _url(settings: Settings) -> str:
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()


def test_the_log_says_where_it_listens(own_site: Site) -> None:
    assert isinstance(own_site.web, WebProcess)
    assert f"url={own_site.web.url}" in own_site.web.text()


THREAD_DIES = """
import ctypes, sys, threading, time
from core.app import open_app
from core.settings import load_settings
from web.server import bind, run

def end(name):
    while True:
        for thread in threading.enumerate():
            if thread.name == name:
                time.sleep(0.5)
                # As a mistake of ours would: the thread ends at its next step.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
                return
        time.sleep(0.05)

threading.Thread(target=end, args=(sys.argv[1],), daemon=True).start()
settings = load_settings()
with bind("127.0.0.1", 0) as listener, open_app(settings) as app:
    status = run(app, listener)
sys.exit(status)
"""


@pytest.mark.parametrize("name", ["access log", "access backstop", "access upkeep"])
def test_a_web_process_in_which_a_thread_of_rights_died_ends_with_70(app: App, name: str) -> None:
    """Law 10: nobody may go on trusting what nobody keeps right any more."""
    ran = subprocess.run(
        [sys.executable, "-c", THREAD_DIES, name],
        cwd=CHECKOUT,
        env=child_environment(app.settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 70, ran.stderr
