"""A flood of invented keys: what it leaves in memory, and how much of it the database sees."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import sqlalchemy as sa
from pydantic import SecretStr
from starlette.types import Scope

from core.access.addresses.addresses import REMEMBERED
from core.access.keys.gate import BURST, LOOKUPS_PER_S
from core.access.keys.text import new_clear_key, new_key_id
from core.app import App, open_app
from core.errors import HeadraceError, Unavailable
from core.settings import Settings
from tests.support.waiting import wait_until
from web.app import build_door
from web.door import Door
from web.landing import Landing
from web.limits import WebLimits
from web.problems import Unauthenticated
from web.threads import Threads

KEYS = 3_000
AT_A_TIME = 200  # more than may wait for a proof


def test_a_flood_of_unknown_keys_leaves_nothing_behind_but_what_is_bounded(settings: Settings) -> None:
    looked_up: list[str] = []

    def count(_1: object, _2: object, statement: str, *_: object) -> None:
        if "virtual_keys.key_hash" in statement:
            looked_up.append(statement)

    with open_app(settings.model_copy(update={"trusted_proxies": ("127.0.0.1",)})) as app:
        app.access.start(is_door=True)
        wait_until(lambda: app.access.watch.is_current() and app.access.ip_filters.version is not None, 10)
        known = app.keys.create("n").clear_key
        assert app.access.authenticator.authenticate(known).key is not None
        sa.event.listen(app.engine, "before_cursor_execute", count)

        began = time.monotonic()
        answers = asyncio.run(_flood(app, known))
        took_s = time.monotonic() - began
        authenticator, absent = app.access.authenticator, app.access.authenticator.cache.absent

        assert set(answers) <= {"not proved", "proved", "known"}
        assert answers["known"] == KEYS // AT_A_TIME
        assert 0 < answers["proved"] <= len(looked_up)
        assert len(looked_up) <= BURST + LOOKUPS_PER_S * took_s + 1
        assert absent <= len(looked_up)
        assert (len(authenticator.cache), authenticator.waiting, authenticator.cache.loading) == (1, 0, 0)
        assert len(app.access.key_limits) == 1
        assert app.access.bans.in_memory == 0
        assert 0 < app.access.proxies.remembered <= REMEMBERED


async def _flood(app: App, known: str) -> Counter[str]:
    assert isinstance(app.settings.redis_url, SecretStr)
    landing = Landing()
    threads, strangers = Threads(landing), Threads(landing, size=2, waiting=64)
    limits = WebLimits(app.settings.redis_url.get_secret_value(), app.access.limiter.fallback)
    door = build_door(app, limits, threads, strangers)
    answers: Counter[str] = Counter()
    for first in range(0, KEYS, AT_A_TIME):
        await asyncio.gather(
            *(_try(door, new_clear_key(new_key_id()), first + number, answers) for number in range(AT_A_TIME))
        )
        await door.enter(_scope(known, 0))
        answers["known"] += 1
    await limits.close()
    threads.close()
    strangers.close()
    return answers


async def _try(door: Door, clear_key: str, number: int, answers: Counter[str]) -> None:
    try:
        await door.enter(_scope(clear_key, number))
    except Unauthenticated:
        answers["proved"] += 1
    except Unavailable:
        answers["not proved"] += 1
    except HeadraceError as other:
        answers[repr(other)] += 1
    else:
        answers["came in"] += 1


def _scope(clear_key: str, number: int) -> Scope:
    address = f"198.18.{number >> 8 & 255}.{number & 255}"
    headers = [(b"x-forwarded-for", address.encode()), (b"authorization", f"Bearer {clear_key}".encode())]
    return {"type": "http", "headers": headers, "client": ("127.0.0.1", 40_000)}
