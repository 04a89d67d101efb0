"""
The thread that follows the change log: woken by pub/sub, and each second without it.

The sequence decides what was heard, never the wake-up. Whatever breaks the sequence (trimmed, a new epoch, gone back)
is a gap: everybody forgets. A lost connection is none, when the log goes on where it was left.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable
from uuid import UUID

import redis
from redis.client import PubSub

from core.access.changes.changes import read_change
from core.access.changes.hearing import CURRENT_S, Hearing, now_s
from core.access.changes.lag import Lags
from core.access.changes.log import ChangeLog, Entry, LogKeys, Reading
from core.connections import RedisAway, RedisLink

logger = logging.getLogger(__name__)

TICK_S = 1.0  # a reading without a wake-up: that a lost one costs no more
SLICE_S = 0.25  # how soon a close is noticed
FRESH_S = 2.5  # a tick, a deadline and some patience; beyond it this process may talk to a Redis that is another by now
MOST_UNHEARD = 3  # entries in a row that a tick found and nobody woke us for: the subscription is dead
_STALE_US = 500_000
_CONFIRM_S = 0.5
_PAUSE_S = (0.05, 1.0)  # between two tries to connect: first, longest
_WARN_EVERY_S = 60


class Follower:
    """
    Args:
        on_connect: called when the log is read again after an interruption; what happened meanwhile may be unrelayed.
    """

    def __init__(self, url: str, keys: LogKeys, hearing: Hearing, *, on_connect: Callable[[], None]) -> None:
        self._link = RedisLink(url, timeout_s=0.5, max_connections=4)
        self._log = ChangeLog(self._link, keys)
        self._keys = keys
        self._hearing = hearing
        self._on_connect = on_connect
        self._name = secrets.token_hex(4)
        self._closing = threading.Event()
        self._position = 0
        self._unheard = 0
        self._pause_s = _PAUSE_S[0]
        self._next_tick_at = 0.0
        self._warned_at = float("-inf")
        self.lags = Lags()
        self.epoch = ""
        self.connection = 0
        """Number of the connection: what was known of the log may not be all there is to know under another one."""
        self.current_until = 0.0
        """Until then what was heard is all there is in the log, but for the milliseconds of a wake-up's way."""
        self.fresh_until = 0.0
        """Until then this Redis is the one whose epoch is known."""

    def run(self) -> None:
        """Until closed."""
        while not self._closing.is_set():
            try:
                self._follow()
            except (RedisAway, redis.ConnectionError, redis.TimeoutError) as error:
                self._lose(error)
            finally:
                self.fresh_until = 0.0
            self._closing.wait(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            self._pause_s = min(self._pause_s * 2, _PAUSE_S[1])
        self._link.close()

    def close(self) -> None:
        self._closing.set()

    def _follow(self) -> None:
        """One life of the connection."""
        # redis-py 8.1 leaves pubsub() without annotations.
        subscription: PubSub = self._link.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py 8.1
        try:
            subscription.subscribe(self._keys.channel)  # pyright: ignore[reportUnknownMemberType] (as above)
            subscription.get_message(timeout=_CONFIRM_S)  # pyright: ignore[reportUnknownMemberType] (as above)
            self._unheard = 0
            self.connection += 1
            self._read(is_tick=False)
            self._pause_s = _PAUSE_S[0]
            self._on_connect()
            while not self._closing.is_set():
                wait_s = min(SLICE_S, max(0.0, self._next_tick_at - now_s()))
                if subscription.get_message(timeout=wait_s) is not None:  # pyright: ignore[reportUnknownMemberType] (as above)
                    self._unheard = 0
                    # One reading for all that wait.
                    while subscription.get_message(timeout=0) is not None:  # pyright: ignore[reportUnknownMemberType] (as above)
                        pass
                    self._read(is_tick=False)
                elif now_s() >= self._next_tick_at:
                    self._read(is_tick=True)
        finally:
            subscription.close()

    def _read(self, *, is_tick: bool) -> None:
        """Read and tell until there is nothing more."""
        while True:
            began = now_s()
            reading = self._log.read(self.epoch, self._position, canary_by=self._name if is_tick else "")
            if is_tick:
                # Of those who tick in step the same one would send every canary, and never hear one.
                self._next_tick_at = began + TICK_S * random.uniform(0.8, 1.0)  # noqa: S311 (jitter)
            if self._take(reading, is_tick=is_tick):
                # As of before the reading. Told, and only then trusted.
                self.current_until, self.fresh_until = began + CURRENT_S, began + FRESH_S
                return

    def _take(self, reading: Reading, *, is_tick: bool) -> bool:
        """Whether that was all."""
        numbers = [entry.seq for entry in reading.entries]
        unbroken = list(range(self._position + 1, self._position + 1 + len(numbers)))
        if reading.epoch != self.epoch or numbers != unbroken or (not numbers and reading.seq != self._position):
            self._begin(reading)
            return True
        for entry in reading.entries:
            self._hear(entry, reading, is_tick=is_tick)
            self._position = entry.seq
        return self._position >= reading.seq

    def _begin(self, reading: Reading) -> None:
        """From here on; whatever was before, all of it is forgotten."""
        # The first time is how every process begins.
        level = logging.INFO if self.epoch else logging.DEBUG
        logger.log(level, "rights are read anew", extra={"is_new_epoch": reading.epoch != self.epoch})
        # Not trusted while it is being forgotten. The epoch first: what is stored under the old one counts no more.
        self.current_until = 0.0
        self.epoch, self._position = reading.epoch, reading.seq
        self._hearing.tell_gap()

    def _hear(self, entry: Entry, reading: Reading, *, is_tick: bool) -> None:
        if entry.canary_us is not None:
            self._hear_canary(entry, entry.canary_us, reading, is_tick=is_tick)
            return
        if entry.change is None:
            self._hearing.tell_gap()
        elif (change := read_change(entry.change)) is not None:
            self._hearing.tell(change)
        if entry.id:
            self._hearing.know([UUID(entry.id)])

    def _hear_canary(self, entry: Entry, sent_us: int, reading: Reading, *, is_tick: bool) -> None:
        if entry.by == self._name:
            return
        lag_us = max(0, reading.now_us - sent_us)
        self.lags.add(lag_us / 1e6, now=now_s())
        if is_tick and lag_us > _STALE_US:
            self._unheard += 1
            if self._unheard >= MOST_UNHEARD:
                raise redis.ConnectionError("wake-ups do not come through")

    def _lose(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_at > _WARN_EVERY_S:
            self._warned_at = now
            logger.warning(
                "the change log is not followed; rights are read from the database",
                extra={"reason": type(error).__name__},
            )
