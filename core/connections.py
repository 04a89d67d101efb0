"""
How we talk to PostgreSQL and Redis: bounded pools, deadlines on every wait, no retries below ours.

A blackholed server must look like an absent one within two seconds (laws 9 and 10).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry
from sqlalchemy import exc

from core.errors import StoreUnavailable
from core.settings import sqlalchemy_url

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2  # libpq's least value
REDIS_TIMEOUT_S = 0.25  # a cache that takes longer than the row is worse than no cache
REDIS_PAUSE_S = 0.5  # left alone this long after a failure: an outage costs one timeout, not one a call

OUTAGES = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, exc.DisconnectionError)
"""What SQLAlchemy raises when the database is away, too slow, or refused a connection."""


INDEX_ORDER_ONLY = "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off"


def connect_database(
    url: str, *, pool_size: int = 10, statement_timeout_ms: int = 10_000, options: str = ""
) -> sa.Engine:
    """
    A bounded pool of connections; nothing connects before it is used.

    Args:
        url: any PostgreSQL URL.
        statement_timeout_ms: bound of one statement on the server.
        options: further server options, e.g. INDEX_ORDER_ONLY; they win over ours.
    """
    all_options = (
        f"-c statement_timeout={statement_timeout_ms} -c lock_timeout=5000"
        f" -c idle_in_transaction_session_timeout=30000 -c timezone=UTC {options}"
    )
    return sa.create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=1.5,  # with the deadline of a statement still inside the API's two seconds
        pool_use_lifo=True,
        hide_parameters=True,  # law 12: an error in a log must not show a prompt
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": all_options,
            "application_name": "headrace",
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 2,
            "tcp_user_timeout": 5000,
        },
    )


def for_claims(engine: sa.Engine) -> sa.Engine:
    """
    The same database by one connection of its own that reads tables in the order of an index, whatever it costs.

    Before the first ANALYZE PostgreSQL would sort the whole backlog at each claim (18.6: 3.5 ms for 1.8 ms). Not for
    other statements: finishes take ten times as long under it.
    """
    return connect_database(engine.url.render_as_string(hide_password=False), pool_size=1, options=INDEX_ORDER_ONLY)


def for_accepts(engine: sa.Engine) -> sa.Engine:
    """
    The same database by two connections that wait for a row's lock only briefly: somebody's open transaction must not
    keep everybody's accepts waiting.
    """
    return connect_database(
        engine.url.render_as_string(hide_password=False), pool_size=2, options="-c lock_timeout=300"
    )


def is_lock_timeout(error: exc.DBAPIError) -> bool:
    """55P03: another transaction kept the row."""
    return getattr(error.orig, "sqlstate", None) == "55P03"


def autocommit(engine: sa.Engine) -> sa.Engine:
    """The same pool; every statement commits by itself, in one round trip."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


_TRANSIENT_CLASSES = ("08", "40", "53", "55", "57", "58")


def is_transient(error: exc.DBAPIError) -> bool:
    """Whether the same statement may pass later: lost connection, deadlock, resources, shutdown; not bad data."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, exc.OperationalError | exc.InterfaceError)
    return str(state)[:2] in _TRANSIENT_CLASSES


@contextmanager
def database_errors(what: str) -> Generator[None]:
    """Turn an outage into StoreUnavailable; `what` says what was not done, e.g. "the task was not read"."""
    try:
        yield
    except OUTAGES as error:
        raise StoreUnavailable(f"the database did not answer; {what}") from error


# Answers of a server that takes no writes for now: its disk is full, its replicas are gone, its cluster is down.
_REFUSES_WRITES = ("MISCONF", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN")


class RedisAway(Exception):
    """Redis did not answer, or failed so lately that it was not asked. Never reaches a caller of the API."""


class RedisLink:
    """
    One Redis with a short circuit: after a failure it is not asked for half a second.

    Thread-safe. Callers treat `RedisAway` as a miss (law 9).

    Args:
        is_off: never connect; every call finds Redis away (HEADRACE_CACHE=memory).
    """

    def __init__(
        self, url: str, *, timeout_s: float = REDIS_TIMEOUT_S, max_connections: int = 64, is_off: bool = False
    ) -> None:
        self.is_off = is_off
        self.client: redis.Redis = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType] (partly typed)
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=max_connections,
            protocol=2,  # RESP3's maintenance handshake costs a round trip a connection and fails on older servers
        )
        self._resume_at = 0.0
        self._warned_at = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def errors(self) -> Generator[redis.Redis]:
        """The client; its failures, and the pause after one, become RedisAway."""
        if self.is_away:
            raise RedisAway("switched off" if self.is_off else "paused after a failure")
        try:
            yield self.client
        except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError) as error:
            self._trip(error)
            raise RedisAway(str(error)) from error
        except redis.ResponseError as error:
            if not str(error).startswith(_REFUSES_WRITES):
                raise
            self._trip(error)
            raise RedisAway(str(error)) from error

    def publish(self, channel: str, message: str | bytes) -> None:
        """Tell who listens; with Redis away nobody is told, and every listener has a backstop."""
        with suppress(RedisAway), self.errors() as client:
            client.publish(channel, message)  # pyright: ignore[reportUnknownMemberType] (redis-py 8.1: partly typed)

    @property
    def is_away(self) -> bool:
        return self.is_off or time.monotonic() < self._resume_at

    def _trip(self, error: Exception) -> None:
        now = time.monotonic()
        with self._lock:
            self._resume_at = now + REDIS_PAUSE_S
            silent = now - self._warned_at < 60  # once a minute: an outage is one event
            if not silent:
                self._warned_at = now
        if not silent:
            logger.warning("redis is away; going on without it", extra={"reason": type(error).__name__})

    def close(self) -> None:
        self.client.close()


def run_script(client: redis.Redis, script: str, sha: str, keys: list[Any], args: list[Any]) -> Any:
    """EVALSHA, or EVAL when the server forgot the script (restart, SCRIPT FLUSH)."""
    try:
        return client.evalsha(sha, len(keys), *keys, *args)
    except NoScriptError:
        return client.eval(script, len(keys), *keys, *args)
