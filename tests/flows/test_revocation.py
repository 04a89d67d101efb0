"""
Law 6 under outages: a disabled key is refused in every process within five seconds, whatever is lost.

Believed by two processes with caches of both tiers whose entries have no end of their own (tests/support/rights.py),
and by a web process. Real servers, which the tests kill, hang and restore.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from pydantic import SecretStr

from core.access.changes.log import LogKeys
from core.access.changes.rows import WINDOW_S
from core.app import App, open_app
from core.connections import autocommit
from core.ids import KeyId
from core.settings import child_environment, load_settings
from tests.support.redis_proxy import swallowing_messages
from tests.support.rights import (
    CHECKOUT,
    RightsProcess,
    disable_unheard,
    new_key,
    rights_process,
)
from tests.support.waiting import wait_until
from tests.web.frozen import OwnServers
from tests.web.serving import Caller, WebProcess, running_web

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="hangs servers by way of /proc")

LAW_S = 5.0
AFTERWARDS_S = 3.0  # it must stay refused: longer than a tick, a look and a reconnection

# Disable a key and be killed: right after the commit, inside the relay before the log, or after it.
_KILLED = """
import os, signal, sys
from core.access.changes.log import ChangeLog, LogKeys
from core.access.changes.changes import Changes
from core.app import open_app
from core.settings import load_settings

def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)

class Dying(ChangeLog):
    def append(self, items):
        if sys.argv[2] == "stopped before the log":
            die(signal.SIGSTOP)
        if sys.argv[2] == "before the log":
            die()
        super().append(items)
        die()

with open_app(load_settings()) as app:
    relay = Changes(app.engine, Dying(app.cache, LogKeys(app.settings.instance_name))).relay
    app.keys._announce = die if sys.argv[2] == "after the commit" else relay
    app.keys.disable(sys.argv[1])
"""


@dataclass(frozen=True)
class Site:
    """Two processes, a web process, and servers of their own."""

    app: App
    servers: OwnServers
    processes: list[RightsProcess]
    web: WebProcess

    def cache(self) -> redis.Redis:
        url = self.app.settings.redis_url
        assert url is not None
        return redis.Redis.from_url(url.get_secret_value())

    def answers(self, key_hash: str) -> list[str]:
        return [process.may(key_hash) for process in self.processes]

    def are(self, answer: str, key_hash: str) -> Callable[[], bool]:
        return lambda: set(self.answers(key_hash)) == {answer}

    def new_key(self) -> tuple[KeyId, str]:
        """A key that every process has in memory."""
        key_id, key_hash = new_key(self.app)
        wait_until(self.are("yes", key_hash), 15, what="the key works everywhere")
        return key_id, key_hash

    def assert_refused(self, key_hash: str, since: float) -> None:
        """Refused within the law everywhere, and from then on."""
        wait_until(self.are("no", key_hash), LAW_S + 1, what="refused everywhere", every=0.01)
        took_s = time.monotonic() - since
        assert took_s < LAW_S, took_s
        until = time.monotonic() + AFTERWARDS_S
        while time.monotonic() < until:
            assert "yes" not in self.answers(key_hash)
            time.sleep(0.02)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    directory = tmp_path_factory.mktemp("revocation")
    with open_app(load_settings({}, data_dir=directory / "var")) as app, ExitStack() as stack:
        processes = [
            stack.enter_context(rights_process(app.settings, directory / f"rights-{number}.log")) for number in (1, 2)
        ]
        web = stack.enter_context(running_web(app.settings, directory / "web.log"))
        yield Site(app, OwnServers(app.settings), processes, web)


def test_every_message_is_lost(site: Site) -> None:
    key_id, key_hash = site.new_key()
    # Relayed, but to a log that nobody here reads: e.g. by somebody who still talks to the Redis of before.
    with site.app.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE virtual_keys SET disabled_at = now() WHERE key_id = :id"),
            {"id": key_id},
        )
        connection.execute(sa.text("UPDATE access_changes SET relayed_at = clock_timestamp() WHERE relayed_at IS NULL"))
    site.assert_refused(key_hash, time.monotonic())
    # Nor is the old copy in Redis believed by anybody later.
    with site.cache() as client:
        assert b'"tombstone":true' in client.get(f"vkey:{key_hash}") or b"[2,false]" in client.get(f"vkey:{key_hash}")


def _says(process: RightsProcess, answer: str, key_hash: str) -> bool:
    return process.may(key_hash) == answer


def _is_refused(caller: Caller) -> bool:
    return caller.get("/v1/tasks").status == 401


def test_no_published_message_comes_through(site: Site, tmp_path: Path) -> None:
    url = site.app.settings.redis_url
    assert url is not None
    with swallowing_messages(url.get_secret_value()) as deaf:
        settings = site.app.settings.model_copy(update={"redis_url": SecretStr(deaf)})
        with rights_process(settings, tmp_path / "rights.log") as process:
            wait_until(lambda: process.may("00") == "no", 5)
            for _ in range(3):
                key_id, key_hash = site.new_key()
                wait_until(partial(_says, process, "yes", key_hash), 5)
                site.app.keys.disable(key_id)
                disabled_at = time.monotonic()
                wait_until(partial(_says, process, "no", key_hash), 5)
                assert time.monotonic() - disabled_at < 1.5  # by the tick, not by the backstop


@pytest.mark.parametrize("when", ["after the commit", "before the log", "after the log", "stopped before the log"])
def test_the_process_that_disables_it_ends_in_the_middle(site: Site, when: str) -> None:
    key_id, key_hash = site.new_key()
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, key_id, when], env=child_environment(site.app.settings), cwd=CHECKOUT
    )
    try:
        if when.startswith("stopped"):
            wait_until(lambda: _state(child.pid) == "T", 20)
        else:
            assert child.wait(20) == -signal.SIGKILL
        site.assert_refused(key_hash, time.monotonic())
    finally:
        child.kill()
        child.wait()
    # What was half done is done by others, or once more.
    with autocommit(site.app.engine).connect() as connection:
        unrelayed = sa.text("SELECT count(*) FROM access_changes WHERE relayed_at IS NULL")
        wait_until(lambda: connection.execute(unrelayed).scalar_one() == 0, 5)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


@pytest.mark.parametrize("how", ["ended", "hung"])
def test_redis_is_away_and_comes_back_with_old_entries(site: Site, how: str, tmp_path: Path) -> None:
    keys = [new_key(site.app) for _ in range(40)]
    for _, key_hash in keys:
        wait_until(site.are("yes", key_hash), 15)
    away = site.servers.hung("valkey") if how == "hung" else site.servers.ended("valkey")
    with ExitStack() as stack:
        with away:
            for key_id, _ in keys:
                disable_unheard(site.app, key_id)
            site.assert_refused(keys[-1][1], time.monotonic())
            # Nothing is in its memory: what it answers afterwards, it reads.
            fresh = stack.enter_context(rights_process(site.app.settings, tmp_path / "rights.log"))
        for _, key_hash in keys:
            assert fresh.may(key_hash) == "no"
            assert "yes" not in site.answers(key_hash)
            time.sleep(0.1)  # forty keys over four seconds: each moment of the return is looked at
    wait_until(lambda: _answers(site), 20)


def test_redis_is_not_believed_after_an_outage_before_the_database_said_what_was_revoked(
    site: Site, tmp_path: Path
) -> None:
    key_id, key_hash = site.new_key()
    with ExitStack() as running, site.cache() as client:
        entry = client.get(f"vkey:{key_hash}")
        assert entry is not None
        with ExitStack() as database:
            with site.servers.hung("valkey"):
                disable_unheard(site.app, key_id)
                fresh = running.enter_context(rights_process(site.app.settings, tmp_path / "rights.log"))
                assert fresh.may("00") == "no"
                database.enter_context(site.servers.hung("postgres"))
            # The log is followed again, and nobody can tell that the entry is old. (What was sent to the hung server
            # reaches it now, other than after a cut line: so the entry is put back.)
            time.sleep(2.5)
            client.set(f"vkey:{key_hash}", entry, px=60_000)
            fresh.ask(key_hash)
            assert not fresh.has_answered(2.0)
        assert fresh.answer() in ("no", "away")
        wait_until(lambda: fresh.may(key_hash) == "no", 10)


def _answers(site: Site) -> bool:
    try:
        with site.cache() as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def test_redis_is_flushed_before_anybody_heard(site: Site) -> None:
    key_id, key_hash = site.new_key()
    with site.cache() as client:
        disable_unheard(site.app, key_id)
        disabled_at = time.monotonic()
        client.flushall()
    site.assert_refused(key_hash, disabled_at)


def test_redis_is_restored_from_an_old_snapshot(site: Site, tmp_path: Path) -> None:
    key_id, key_hash = site.new_key()
    with site.cache() as client:
        assert b'"epoch"' in (client.get(f"vkey:{key_hash}") or b"")
        client.bgrewriteaof()
        wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, 10)
        time.sleep(1.2)  # appendfsync everysec
    data = site.app.settings.data_dir / "valkey"
    shutil.copytree(data, tmp_path / "old")

    site.app.keys.disable(key_id)
    site.assert_refused(key_hash, time.monotonic())
    with site.servers.ended("valkey"):
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "old", data)
    with rights_process(site.app.settings, tmp_path / "rights.log") as fresh:
        until = time.monotonic() + AFTERWARDS_S + 3
        while time.monotonic() < until:
            assert "yes" not in [*site.answers(key_hash), fresh.may(key_hash)]
            time.sleep(0.01)
        assert fresh.may(key_hash) == "no"


def test_a_process_that_was_stopped_for_longer_than_anybody_remembers(site: Site) -> None:
    key_id, key_hash = site.new_key()
    key = site.app.keys.create("for the web")
    caller = Caller(site.web.url, key.clear_key).keep()
    wait_until(lambda: caller.get("/v1/tasks").status == 200, 5)
    stopped = [site.processes[0].process.pid, site.web.process.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        site.app.keys.disable(key_id)
        site.app.keys.disable(key.key_id)
        with site.cache() as client:
            client.xtrim(LogKeys(site.app.settings.instance_name).log, maxlen=0, approximate=False)
        # The backstop does not look back so far: that time passed, and that the log was cut, is all there is to see.
        time.sleep(WINDOW_S + 1)
        site.processes[0].ask(key_hash)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    assert site.processes[0].answer() == "no"
    assert caller.get("/v1/tasks").status == 401
    until = time.monotonic() + AFTERWARDS_S
    while time.monotonic() < until:
        assert "yes" not in site.answers(key_hash)


def test_with_the_database_hung_known_keys_work_and_with_both_hung_nothing_is_granted(site: Site) -> None:
    _, key_hash = site.new_key()
    with site.servers.hung("postgres"):
        until = time.monotonic() + LAW_S + 2
        while time.monotonic() < until:
            assert site.answers(key_hash) == ["yes", "yes"]
            time.sleep(0.05)
        with site.servers.hung("valkey"):
            time.sleep(LAW_S)  # what is in memory may count so long
            for process in site.processes:
                process.ask(key_hash)
            # They wait for a truth.
            assert not any(process.has_answered(0.5) for process in site.processes)
    assert {process.answer() for process in site.processes} <= {"yes", "away"}
    wait_until(site.are("yes", key_hash), 15)


def test_without_redis_by_setting_the_database_alone_is_enough(site: Site, tmp_path: Path) -> None:
    settings = site.app.settings.model_copy(update={"cache": "memory"})
    with rights_process(settings, tmp_path / "rights.log") as process:
        key_id, key_hash = site.new_key()
        wait_until(lambda: process.may(key_hash) == "yes", 5)
        site.app.keys.disable(key_id)
        disabled_at = time.monotonic()
        wait_until(lambda: process.may(key_hash) == "no", 6)
        assert time.monotonic() - disabled_at < LAW_S


def test_the_web_process_hears_at_once(site: Site) -> None:
    took: list[float] = []
    for _ in range(20):
        key = site.app.keys.create("for the web")
        caller = Caller(site.web.url, key.clear_key).keep()
        assert caller.get("/v1/tasks").status == 200
        site.app.keys.disable(key.key_id)
        disabled_at = time.monotonic()
        wait_until(partial(_is_refused, caller), 5, every=0.001)
        took.append(time.monotonic() - disabled_at)
    assert sorted(took)[18] < 0.05, took
