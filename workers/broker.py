"""
Dramatiq's Redis broker, reduced to bells: what is taken from Redis is only "queue Q has work" (law 2).

Our consumer takes a bell only while a thread is free, and taking it is acknowledging it: there is nothing to lose, so
nothing to requeue. It is woken by pub/sub; without it, it looks each second; with Redis away it asks the database each
second, by a bell of its own. It never raises for an outage: Dramatiq's consumer thread would sleep 3 s (2.2.1).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import redis
from dramatiq import Actor, Consumer, Message, MessageProxy
from dramatiq.brokers.redis import RedisBroker

from core.connections import RedisAway
from core.tasks.bells import ACTOR, RedisBells
from workers.ears import Ear, Ears
from workers.slots import Slots

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class BellBroker(RedisBroker):
    """
    The queues of one worker process.

    No delay queues: the row knows when a task is due, so Dramatiq's threads for them are not started.
    """

    def __init__(self, bells: RedisBells, ears: Ears, slots: Slots) -> None:
        options: dict[str, Any] = {"client": bells.link.client, "namespace": bells.keys.namespace, "middleware": []}
        untyped: Any = super()  # dramatiq 2.2.1 leaves this class untyped
        untyped.__init__(**options)
        self.bells = bells
        self.ears = ears
        self.slots = slots
        self.doubts = Doubts()

    def hear(self, drain: Callable[[str], None], queues: Iterable[str]) -> None:
        """Let each bell call `drain(queue)`."""
        names = list(queues)
        Actor(drain, broker=self, actor_name=ACTOR, queue_name=names[0], priority=0, options={})
        for name in names:
            self.declare_queue(name)

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        return BellConsumer(self, queue_name)


class Doubts:
    """Queues whose last claim failed: their consumers ask the database again, each second, until one succeeds."""

    def __init__(self) -> None:
        self._queues: set[str] = set()

    def claim_failed(self, queue: str) -> None:
        self._queues.add(queue)

    def claim_answered(self, queue: str) -> None:
        if self._queues:
            self._queues.discard(queue)

    def __contains__(self, queue: str) -> bool:
        return queue in self._queues


class BellConsumer(Consumer):
    """Yields at most as many bells as there are slots for the queue; a drain releases the slot at its end."""

    def __init__(self, broker: BellBroker, queue: str) -> None:
        self._queue = queue
        self._bells = broker.bells
        self._slots = broker.slots
        self._doubts = broker.doubts
        self._ear: Ear = broker.ears.of(queue)
        self._wanted = False  # a bell is there, but no slot was free
        self._closed = threading.Event()

    def __next__(self) -> MessageProxy | None:
        if not self._wanted and not self._ear.wait(LOOK_EVERY_S) and not self._look():
            return None
        self._wanted = True
        if not self._slots.acquire(self._queue, timeout_s=LOOK_EVERY_S):
            if self._slots.is_closed:
                self._closed.wait(LOOK_EVERY_S / 4)  # else this thread would spin until the process has stopped
            return None
        self._wanted = False
        if not self._take():
            self._slots.release(self._queue)
            return None
        return MessageProxy(_bell(self._queue))

    def _look(self) -> bool:
        """Nobody woke us: is there a bell all the same, or a reason to ask the database?"""
        if self._queue in self._doubts or self._slots.has_room(self._queue):
            return True  # with a slot: taking tells more than looking, for a Redis that refuses writes can be read
        try:
            return self._bells.waits(self._queue)
        except (RedisAway, redis.RedisError):
            return True

    def _take(self) -> bool:
        if self._ear.take_local():
            return True
        try:
            return self._bells.take(self._queue) or self._queue in self._doubts
        except RedisAway:
            return True  # a drain asks the database: it claims, and finds nothing or something
        except redis.RedisError as error:  # e.g. a key of another type under our name
            logger.error("bells cannot be taken; asking the database", extra={"reason": str(error)})
            return True

    def ack(self, message: MessageProxy) -> None:
        """Taking it was acknowledging it."""

    def nack(self, message: MessageProxy) -> None:
        """Nothing to do: the task is a row."""

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Dramatiq hands back what no thread took before the end: let another process hear it."""
        for queue in {message.queue_name for message in messages}:
            self._bells.ring(queue)

    def close(self) -> None:
        self._closed.set()


def _bell(queue: str) -> Message[Any]:
    return Message(queue_name=queue, actor_name=ACTOR, args=(queue,), kwargs={}, options={})
