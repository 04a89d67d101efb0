"""One database for all tests of a file that asks for `emptied`, emptied before each: what they need of it is small."""

from __future__ import annotations

import secrets
from collections.abc import Generator

import pytest
import redis
from pydantic import SecretStr

from core.app import App, open_app
from core.embedded import Servers
from core.settings import Settings
from tests.support.databases import fresh_database


@pytest.fixture(scope="module")
def file_app(servers: Servers, server_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[App]:
    with fresh_database(servers.database_url) as url:
        settings = server_settings.model_copy(
            update={
                "database_url": SecretStr(url),
                "redis_url": SecretStr(f"{servers.redis_url.rpartition('/')[0]}/15"),
                "instance_name": f"a{secrets.token_hex(4)}:",
                "data_dir": tmp_path_factory.mktemp("access"),
            }
        )
        with open_app(settings) as app:
            yield app


@pytest.fixture
def emptied(file_app: App, store: redis.Redis) -> App:
    store.flushdb()
    with file_app.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE bans, ip_filters, access_changes, audit_log")
    return file_app


@pytest.fixture
def store(file_app: App) -> Generator[redis.Redis]:
    """The Redis of `emptied`."""
    assert file_app.settings.redis_url is not None
    with redis.Redis.from_url(file_app.settings.redis_url.get_secret_value()) as connection:
        yield connection
