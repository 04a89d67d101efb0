from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from pydantic import SecretStr

from core.embedded import EmbeddedServers, open_servers
from core.errors import Misconfigured
from core.settings import Settings, load_settings
from tests.support.processes import ROOT, command_lines, is_running, processes_naming, python
from tests.support.waiting import wait_until

USER = """
import sys
from pathlib import Path
from core.embedded import open_servers
from core.settings import load_settings
with open_servers(load_settings({}, data_dir=Path(sys.argv[1]))) as settings:
    print(settings.database_url.get_secret_value(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def given(data_dir: Path) -> Settings:
    return load_settings({}, data_dir=data_dir)


@contextmanager
def another_user(data_dir: Path) -> Generator[subprocess.Popen[str]]:
    """A process that uses the servers until its stdin closes."""
    process = python(USER, str(data_dir))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def record(data_dir: Path) -> Any:
    return json.loads((data_dir / "servers.json").read_text())


def secret(value: SecretStr | None) -> str:
    assert value is not None
    return value.get_secret_value()


def write_a_row(settings: Settings) -> None:
    with psycopg.connect(secret(settings.database_url)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    with redis.Redis.from_url(secret(settings.redis_url)) as cache:
        cache.incr("kept")


def rows(settings: Settings) -> int:
    with psycopg.connect(secret(settings.database_url)) as connection:
        found = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert found is not None
    return int(found[0])


def nothing_runs(data_dir: Path) -> bool:
    return not processes_naming(str(data_dir))


def keepers(data_dir: Path) -> list[int]:
    """The process that holds the keeper's lock, known by the open file (its command line names no directory)."""
    lock = str(data_dir / "keeper.lock")
    found = []
    for pid in processes_naming("core.servers.keeper import main"):
        links = [os.path.realpath(path) for path in Path(f"/proc/{pid}/fd").glob("*")]
        if lock in links:
            found.append(pid)
    return found


def test_every_url_and_secret_is_filled_in_and_works(given: Settings) -> None:
    with open_servers(given) as settings:
        with psycopg.connect(secret(settings.database_url)) as connection:
            durable = connection.execute(
                "SELECT current_setting('fsync'), current_setting('server_encoding')"
            ).fetchone()
        with redis.Redis.from_url(secret(settings.redis_url)) as cache:
            cache_config = cache.config_get("appendonly", "maxmemory-policy")
        with redis.Redis.from_url(secret(settings.broker_url)) as broker:
            assert broker.ping()

    assert durable == ("on", "UTF8")
    assert cache_config == {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    assert len(secret(settings.key_pepper)) >= 32
    assert secret(settings.admin_key)
    assert settings.offers_diagnostics


def test_what_was_written_and_every_secret_survives_a_restart(given: Settings) -> None:
    with open_servers(given) as first:
        write_a_row(first)
    with open_servers(given) as second:
        kept = rows(second)
        with redis.Redis.from_url(secret(second.redis_url)) as cache:
            assert cache.get("kept") == b"1"

    assert kept == 1
    assert second.key_pepper == first.key_pepper


def test_leaving_as_the_last_user_leaves_nothing_running(given: Settings, data_dir: Path) -> None:
    with open_servers(given):
        assert len(processes_naming(str(data_dir))) >= 2

    assert nothing_runs(data_dir)
    assert not (data_dir / "servers.json").exists()


def test_secrets_are_readable_by_the_owner_alone_and_in_no_command_line(given: Settings, data_dir: Path) -> None:
    with open_servers(given):
        made = json.loads((data_dir / "secrets.json").read_text())
        lines = "\n".join(command_lines().values())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.rglob("*") if path.is_file()}

    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert not [value for value in made.values() if value in lines]
    assert {name: mode for name, mode in modes.items() if mode & 0o077 and name != "PG_VERSION"} == {}


def test_a_data_directory_of_before_gets_an_encryption_key_and_keeps_it(given: Settings, data_dir: Path) -> None:
    with open_servers(given):
        made = json.loads((data_dir / "secrets.json").read_text())
    (data_dir / "secrets.json").write_text(json.dumps({**made, "encryption_key": ""}))

    found: list[str] = []
    for _ in range(2):
        with open_servers(given) as settings:
            found.append(secret(settings.encryption_key))

    assert found[0] == found[1] != made["encryption_key"]
    assert json.loads((data_dir / "secrets.json").read_text()) == {**made, "encryption_key": found[0]}
    assert stat.S_IMODE((data_dir / "secrets.json").stat().st_mode) == 0o600


def test_the_servers_outlive_the_user_that_started_them(given: Settings, data_dir: Path) -> None:
    with another_user(data_dir) as starter:
        url = url_of(starter)
        with open_servers(given) as settings:
            starter.communicate()  # it leaves, and does not wait for us

            assert secret(settings.database_url) == url
            write_a_row(settings)

    assert nothing_runs(data_dir)


def test_users_that_come_at_the_same_time_share_one_pair_of_servers(data_dir: Path) -> None:
    with another_user(data_dir) as one, another_user(data_dir) as two, another_user(data_dir) as three:
        urls = {url_of(one), url_of(two), url_of(three)}
        postmasters = [line for line in processes_naming(f"-D {data_dir}/postgres").values() if "postgres -D" in line]

    assert len(urls) == 1
    assert len(postmasters) == 1
    wait_until(lambda: nothing_runs(data_dir), 5)


def test_users_that_come_and_go_always_find_working_servers(given: Settings, data_dir: Path) -> None:
    # Joining while the last user's servers are just stopping is the race; each round hits another moment of it.
    for _ in range(8):
        with another_user(data_dir) as other:
            url_of(other)
            assert other.stdin is not None
            other.stdin.close()
            with open_servers(given) as settings:
                write_a_row(settings)
            other.wait(20)

    with open_servers(given) as settings:
        assert rows(settings) == 8


def test_kill_9_of_the_only_user_leaves_nothing_running(data_dir: Path) -> None:
    with another_user(data_dir) as user:
        url_of(user)
        user.kill()
        user.wait()

        wait_until(lambda: nothing_runs(data_dir), 5, what="all servers gone")


def test_kill_9_of_the_keeper_ends_the_servers_and_revive_brings_them_back(given: Settings, data_dir: Path) -> None:
    servers = EmbeddedServers(given)
    try:
        write_a_row(servers.settings)
        pids = [record(data_dir)[name]["pid"] for name in ("postgres", "valkey")]

        os.kill(record(data_dir)["keeper"], signal.SIGKILL)
        wait_until(lambda: not any(is_running(pid) for pid in pids), 5, what="servers of a killed keeper gone")
        assert not servers.is_running()
        servers.revive()

        assert rows(servers.settings) == 1  # on the same URL
    finally:
        servers.close()
    assert nothing_runs(data_dir)


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_killed_server_is_started_again_on_its_port(given: Settings, data_dir: Path, name: str) -> None:
    with open_servers(given) as settings:
        write_a_row(settings)
        first = record(data_dir)[name]

        os.kill(first["pid"], signal.SIGKILL)

        wait_until(lambda: record(data_dir)[name]["pid"] != first["pid"], 10)
        assert record(data_dir)[name]["port"] == first["port"]
        assert rows(settings) == 1


def test_a_kill_at_any_moment_of_the_first_start_needs_no_cleaning_up(given: Settings, data_dir: Path) -> None:
    stages = ("secrets.json", "postgres.new", "postgres.new/base/1", "postgres", "postgres/postmaster.pid")
    for stage in stages:
        with another_user(data_dir) as user:
            wait_until((data_dir / stage).exists, 20, every=0.001)
            for pid in keepers(data_dir):
                os.kill(pid, signal.SIGKILL)
            user.kill()

    with open_servers(given) as settings:
        write_a_row(settings)
        assert rows(settings) == 1
    assert nothing_runs(data_dir)


def test_a_half_made_cluster_is_made_again(given: Settings, data_dir: Path) -> None:
    unfinished = data_dir / "postgres.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18")
    (data_dir / "postgres.password").write_text("left over")

    with open_servers(given) as settings:
        write_a_row(settings)

    assert not unfinished.exists()
    assert not (data_dir / "postgres.password").exists()


def test_a_pid_file_with_the_number_of_a_stranger_does_not_stop_a_start(given: Settings, data_dir: Path) -> None:
    with open_servers(given) as settings:
        write_a_row(settings)
        lines = (data_dir / "postgres/postmaster.pid").read_text().splitlines()
    stranger = str(os.getpid())
    (data_dir / "postgres/postmaster.pid").write_text("\n".join([stranger, *lines[1:]]) + "\n")
    (data_dir / "valkey/valkey.pid").write_text(stranger)
    (data_dir / "servers.json").write_text('{"keeper": ' + stranger + "}")

    with open_servers(given) as settings:
        assert rows(settings) == 1


def test_with_both_urls_nothing_is_started_and_nothing_written(data_dir: Path) -> None:
    urls = {"database_url": "postgresql://u:p@db/x", "redis_url": "redis://cache:6379/0"}
    kept = {"admin_key": "a" * 20, "key_pepper": "p" * 32}

    with open_servers(load_settings({}, data_dir=data_dir, **urls, **kept)) as settings:
        assert secret(settings.broker_url) == "redis://cache:6379/1"
        assert secret(settings.database_url) == "postgresql://u:p@db/x"
        assert not settings.offers_diagnostics

    assert not data_dir.exists()


@pytest.mark.parametrize("redis_url", ["redis://cache:6379/0", None])
def test_a_database_url_without_secrets_refuses_and_names_them(data_dir: Path, redis_url: str | None) -> None:
    settings = load_settings({}, data_dir=data_dir, database_url="postgresql://u:p@db/x", redis_url=redis_url)

    with pytest.raises(Misconfigured, match="HEADRACE_ADMIN_KEY and HEADRACE_KEY_PEPPER"), open_servers(settings):
        pass


def test_a_short_pepper_is_refused(data_dir: Path) -> None:
    urls = {"database_url": "postgresql://u:p@db/x", "redis_url": "redis://cache:6379/0"}
    settings = load_settings({}, data_dir=data_dir, admin_key="a", key_pepper="short", **urls)

    with pytest.raises(Misconfigured, match="KEY_PEPPER: must have 32"), open_servers(settings):
        pass


def test_only_the_server_without_a_url_is_started(given: Settings, data_dir: Path) -> None:
    cache_given = given.model_copy(update={"redis_url": SecretStr("redis://cache:6379/3")})

    with open_servers(cache_given) as settings:
        assert set(record(data_dir)) == {"keeper", "postgres"}
        assert secret(settings.redis_url) == "redis://cache:6379/3"
        with pytest.raises(Misconfigured, match="REDIS_URL"), open_servers(given):
            pass

    assert nothing_runs(data_dir)


def test_without_wheel_and_program_one_line_says_what_to_do(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom core.servers import programs\n"
    for function, words in (("postgres_programs", "HEADRACE_DATABASE_URL"), ("valkey_program", "HEADRACE_REDIS_URL")):
        bare = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"{code}print(programs.{function}())"],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert words in bare.stderr.splitlines()[-1]


def test_programs_on_path_are_taken_when_there_is_no_wheel(tmp_path: Path) -> None:
    for name in ("postgres", "initdb", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom core.servers import programs as p\n"

    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code + "print(p.postgres_programs(), p.valkey_program())"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.split() == [str(tmp_path), str(tmp_path / "redis-server")]
