"""All that one request waits for has to fit in the contract's two seconds together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from threading import Event

import pytest

from core.errors import StoreUnavailable
from web import deadline
from web.landing import Landing
from web.threads import Threads


@pytest.fixture
def held() -> Generator[Event]:
    """Set at the end, so that no thread stays held."""
    event = Event()
    yield event
    event.set()


async def _step(threads: Threads, held: Event, seconds: float) -> None:
    await threads.run(lambda: held.wait(seconds), failure="nothing was read")


def test_a_second_slow_step_gets_what_the_first_left(held: Event) -> None:
    async def answer() -> float:
        threads = Threads(Landing())
        deadline.begin()
        began = time.monotonic()
        await _step(threads, held, 1.0)
        with pytest.raises(StoreUnavailable):
            await _step(threads, held, 10.0)
        threads.close()
        return time.monotonic() - began

    assert 1.7 < asyncio.run(answer()) < 2.3


def test_the_time_in_which_the_client_sends_does_not_count(held: Event) -> None:
    async def left() -> float:
        threads = Threads(Landing())
        deadline.begin()
        await _step(threads, held, 0.5)
        deadline.forgive(0.5)
        threads.close()
        return deadline.left_s()

    assert 1.4 < asyncio.run(left()) <= deadline.ANSWER_S
    assert deadline.left_s() == float("inf")
