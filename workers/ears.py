"""
Hearing bells and cancellations: one thread per process on Redis pub/sub, and one ear per queue that it wakes.

A message may be lost; whoever waits on an ear looks for himself each second. After a reconnect every ear is woken,
because a bell may have been rung meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from core.ids import PublicId, WorkerId
from core.tasks.bells import RedisBells

logger = logging.getLogger(__name__)

RECONNECT_S = 0.5
PING_S = 5.0  # a connection that went silent without an end (a firewall, a blackhole) is noticed by its missing pong
DEAF_AFTER_S = 10.0


class Ear:
    """What one queue's consumer waits on. `local`: a drain of this process says that there is more."""

    def __init__(self) -> None:
        self._heard = threading.Event()
        self._heard.set()  # the first look is at once: a bell may be waiting
        self._local = False

    def wake(self) -> None:
        self._heard.set()

    def ring_locally(self) -> None:
        self._local = True
        self._heard.set()

    def take_local(self) -> bool:
        """Whether there was a local bell; it is taken. Only the queue's consumer calls this."""
        taken, self._local = self._local, False
        return taken

    def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up; what comes after the return wakes the next wait."""
        heard = self._heard.wait(timeout_s)
        self._heard.clear()
        return heard


class Ears:
    """
    Args:
        on_cancel: called on the listening thread for each task of ours that its owner wants stopped.
        standing: channel -> called there for each message on it, and after each reconnect.
    """

    def __init__(
        self,
        bells: RedisBells,
        *,
        worker_id: WorkerId,
        on_cancel: Callable[[PublicId], None],
        standing: Mapping[str, Callable[[], None]],
    ) -> None:
        self._bells = bells
        self._on_cancel = on_cancel
        self._standing = standing
        self._worker_channel = bells.keys.worker_channel(worker_id)
        self._ears: dict[str, Ear] = {}
        self._by_channel: dict[str, Ear] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ears", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def of(self, queue: str) -> Ear:
        """The queue's ear; listening on its channel begins within a second."""
        ear = self._ears.get(queue)
        if ear is None:
            ear = self._ears.setdefault(queue, Ear())
            self._by_channel[self._bells.keys.channel(queue)] = ear
        return ear

    def wake_all(self) -> None:
        for ear in list(self._ears.values()):
            ear.wake()

    def close(self) -> None:
        """Stop listening; the thread ends within a second."""
        self._stopping.set()
        self.wake_all()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError, ValueError) as error:  # ValueError: redis-py 8.1, its socket was closed
                if not self._stopping.is_set():
                    logger.info("not listening for bells; asking instead", extra={"reason": type(error).__name__})
                self._stopping.wait(RECONNECT_S)

    def _listen(self) -> None:
        client: Any = self._bells.link.client  # redis-py leaves pub/sub untyped
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            channels: set[str] = set()
            heard_at = pinged_at = time.monotonic()
            while not self._stopping.is_set():
                wanted = {self._worker_channel, *self._standing, *self._by_channel}
                if wanted - channels:
                    pubsub.subscribe(*(wanted - channels))
                    if not channels:
                        self._catch_up()
                    channels = wanted
                    self.wake_all()
                message = pubsub.get_message(timeout=1.0)
                now = time.monotonic()
                if message is not None:
                    heard_at = now
                    self._hear(message)
                elif now - heard_at > DEAF_AFTER_S:
                    raise redis.ConnectionError("no answer to a ping")
                elif now - max(heard_at, pinged_at) > PING_S:
                    pinged_at = now
                    pubsub.ping()
        finally:
            pubsub.close()

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        channel = message["channel"].decode()
        if channel == self._worker_channel:
            self._on_cancel(PublicId(message["data"].decode("ascii", "replace")))
            return
        if channel in self._standing:
            self._standing[channel]()
            return
        ear = self._by_channel.get(channel)
        if ear is not None:
            ear.wake()

    def _catch_up(self) -> None:
        """Whatever was said while nobody listened."""
        for hear in self._standing.values():
            hear()


class Ringer:
    """
    Says that a queue has more: to free threads of this process at once, to others by Redis at most each 50 ms.

    What was held back is rung by `ring_held_back`, which the watch thread calls.
    """

    EVERY_S = 0.05

    def __init__(self, bells: RedisBells, ears: Ears, *, has_room: Callable[[str], bool]) -> None:
        self._bells = bells
        self._ears = ears
        self._has_room = has_room
        self._rung_at: dict[str, float] = {}
        self._held_back: set[str] = set()

    def more(self, queue: str) -> None:
        """The last claim got all it asked for."""
        if self._has_room(queue):
            self._ears.of(queue).ring_locally()
        now = time.monotonic()
        if now - self._rung_at.get(queue, 0.0) < self.EVERY_S:
            self._held_back.add(queue)
            return
        self._rung_at[queue] = now
        self._bells.ring(queue)

    def soon(self, queue: str) -> None:
        """Something is being returned to the queue: ring when it is likely to be there."""
        self._rung_at[queue] = time.monotonic()
        self._held_back.add(queue)

    def again(self, queue: str) -> None:
        """There is more, and this process wants to hear of it once it has a thread."""
        self._ears.of(queue).ring_locally()
        self._bells.ring(queue)

    def holds_back(self) -> bool:
        return bool(self._held_back)

    def ring_held_back(self) -> None:
        now = time.monotonic()
        for queue in list(self._held_back):
            if now - self._rung_at.get(queue, 0.0) >= self.EVERY_S:
                self._held_back.discard(queue)
                self.more(queue)
