"""Clients and failures, for tests of bans."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
import redis
import sqlalchemy as sa

from core.access.addresses.addresses import Client, TrustedProxies
from core.access.addresses.bans import Ban, Bans, exempt_networks
from core.connections import RedisLink
from core.events.access import BansChanged, change_of
from core.settings import Settings

_NOBODY = TrustedProxies(())


def client(address: str) -> Client:
    return _NOBODY.client(address)


@contextmanager
def bans_of(
    settings: Settings, engine: sa.Engine, *, redis_url: str | None = None, exempt: str = ""
) -> Generator[Bans]:
    """The bans of one process."""
    assert settings.redis_url is not None
    link = RedisLink(redis_url or settings.redis_url.get_secret_value())
    bans = Bans(
        engine,
        link,
        settings.instance_name,
        after_failures=settings.ban_after_failures,
        ban_s=settings.ban_s,
        exempt=exempt_networks(exempt.split()),
        relay=lambda: None,
    )
    try:
        yield bans
    finally:
        bans.close()
        link.close()


def fail(bans: Bans, address: str, times: int = 1) -> Ban | None:
    """What the last failure said."""
    said = None
    for _ in range(times):
        said = bans.fail(client(address), "test")
    return said


def stored(store: redis.Redis, name: str) -> Any:
    """The JSON of a string in Redis."""
    return orjson.loads(cast("bytes", store.get(name)))


def rows(engine: sa.Engine) -> dict[str, sa.RowMapping]:
    """The rows by network."""
    query = "SELECT network::text AS network, reason, failures, level, version, created_at, until_at FROM bans"
    with engine.connect() as connection:
        return {str(row["network"]): row for row in connection.exec_driver_sql(query).mappings()}


def changes(engine: sa.Engine) -> list[BansChanged]:
    """All that the database has written down about bans, oldest first."""
    with engine.connect() as connection:
        texts = connection.exec_driver_sql("SELECT change FROM access_changes ORDER BY created_at").scalars().all()
    return [change for change in map(change_of, texts) if isinstance(change, BansChanged)]


def age(engine: sa.Engine, **by: int) -> None:
    """All bans began and end so much earlier, as if time had passed."""
    span = timedelta(**by)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE bans SET created_at = created_at - :span, until_at = until_at - :span"), {"span": span}
        )


def in_hours(hours: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)
