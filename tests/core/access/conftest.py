"""A limiter on the test's own Redis."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from core.access.limiter import Fallback, Limiter
from core.access.local_limiter import LocalLimiter
from core.connections import RedisLink
from core.embedded import Servers


@pytest.fixture
def link(servers: Servers) -> Generator[RedisLink]:
    """The server's first database, emptied: nobody else uses it, and no PostgreSQL database has to be made."""
    opened = RedisLink(servers.redis_url, timeout_s=5.0)
    opened.client.flushdb()
    yield opened
    opened.client.flushdb()
    opened.close()


@pytest.fixture
def limiter(link: RedisLink) -> Limiter:
    """Closed without Redis, so that a test never passes by the fallback."""
    return Limiter(link, Fallback("closed", LocalLimiter()))
