"""
Real servers for every test: one PostgreSQL and one Valkey for the session, durable as in production.

Each test gets a database of its own, a pair of emptied Redis databases and an instance name of its own.
The tests run in several processes (`-n 0`: in one); each is a session with servers of its own, and takes whole files.
In CI a skipped test fails the run: a test that did not run has proved nothing.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from core.app import App, open_app
from core.embedded import Servers, open_servers
from core.settings import Settings, load_settings
from tests.support.databases import fresh_database, make_template
from tests.support.turns import turn

# Databases 2-15 of the server, in pairs: cache and broker. 0 and 1 are those of the servers' own URLs.
_redis_pairs = itertools.cycle(range(2, 16, 2))

# Processes a core: most tests wait for servers, processes and clocks, and one of them keeps half a core busy.
_PROCESSES_A_CORE = 2
_MOST_PROCESSES = 8  # each has a PostgreSQL and a Valkey of its own


@pytest.fixture(scope="session")
def server_settings(tmp_path_factory: pytest.TempPathFactory) -> Generator[Settings]:
    """The session's servers, as `open_servers` gives them to any process."""
    data_dir = tmp_path_factory.mktemp("servers") / "var"
    with open_servers(load_settings({}, data_dir=data_dir)) as settings:
        yield settings


@pytest.fixture(scope="session")
def servers(server_settings: Settings) -> Servers:
    """URLs of the session's servers, with the template of all test databases in place."""
    urls = (server_settings.database_url, server_settings.redis_url, server_settings.broker_url)
    database_url, redis_url, broker_url = (url.get_secret_value() for url in urls if url is not None)
    make_template(database_url)
    return Servers(database_url, redis_url, broker_url)


@pytest.fixture
def database(servers: Servers) -> Generator[str]:
    """The URL of a migrated database that nobody else uses."""
    with fresh_database(servers.database_url) as url:
        yield url


@pytest.fixture
def settings(servers: Servers, server_settings: Settings, database: str, tmp_path: Path) -> Settings:
    """All URLs and secrets set: a migrated database, two emptied Redis databases, an instance name of its own."""
    number = next(_redis_pairs)
    cache_url, broker_url = (f"{servers.redis_url.rpartition('/')[0]}/{n}" for n in (number, number + 1))
    for url in (cache_url, broker_url):
        with redis.Redis.from_url(url) as connection:
            connection.flushdb()
    return server_settings.model_copy(
        update={
            "database_url": SecretStr(database),
            "redis_url": SecretStr(cache_url),
            "broker_url": SecretStr(broker_url),
            "instance_name": f"t{secrets.token_hex(4)}:",
            "data_dir": tmp_path / "var",
        }
    )


@pytest.fixture
def app(settings: Settings) -> Generator[App]:
    """An application on the test's own database."""
    with open_app(settings) as opened:
        yield opened


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return processes_for(config.args, cores=os.cpu_count() or 1)


def processes_for(paths: Sequence[str], *, cores: int) -> int:
    """For these arguments of pytest; 0 is the process that was started, which does one file sooner than another."""
    files = {path.partition("::")[0] for path in paths}
    if len(files) == 1 and files.pop().endswith(".py"):
        return 0
    return min(_PROCESSES_A_CORE * cores, _MOST_PROCESSES)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # first: outside pytest-timeout's clock
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """One test at a time in this process; in those beside it none while a test marked `alone` runs."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    directory = Path(item.config.getoption("basetemp")).parent  # each process of the run has its own below it
    with turn(directory, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A lone surrogate in what a test printed cannot travel to the process that reports; its escape can."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_encodable(name): _encodable(part) for name, part in value.items()}
        case list() | tuple():
            return type(value)(_encodable(part) for part in value)
        case _:
            return value


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI") or session.exitstatus != pytest.ExitCode.OK:
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped, and in CI each must run", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
