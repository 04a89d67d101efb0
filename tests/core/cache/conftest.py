"""A link to the session's Redis, under a prefix of the test's own."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from core.connections import RedisLink
from core.embedded import Servers
from tests.support.caches import Truth, fresh_prefix


@pytest.fixture
def link(servers: Servers) -> Generator[RedisLink]:
    opened = RedisLink(servers.redis_url, timeout_s=5.0)
    yield opened
    opened.close()


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


@pytest.fixture
def truth() -> Truth:
    return Truth()
