"""
Bells: "queue Q has work". They carry no data and may be lost, doubled or reordered (law 2).

A bell is an ordinary Dramatiq message in its Redis layout, written here without importing Dramatiq, so that producers
stay light; `workers/broker.py` hears it and a test holds the two together. At most one bell per queue is outstanding:
the mark is cleared when the bell is taken, before the first claim, and ends by itself after two seconds.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid

import orjson

from core.connections import RedisAway, RedisLink, run_script
from core.ids import PublicId

NAMESPACE = "dramatiq"
ACTOR = "bell"
MARK_LIFE_MS = 2000

# KEYS: mark, list of ids, hash of bodies. ARGV: life of the mark, message id, body, channel.
_RING = """
if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
  redis.call('RPUSH', KEYS[2], ARGV[2])
  redis.call('PUBLISH', ARGV[4], '')
  return 1
end
return 0
"""
_RING_SHA = hashlib.sha1(_RING.encode(), usedforsecurity=False).hexdigest()

# KEYS: mark, list of ids, hash of bodies. Taking is removing, body and all: there is nothing to acknowledge. All of
# them: bells carry no data, and while every worker is busy each ended mark lets one more gather.
_TAKE = """
local taken = redis.call('DEL', KEYS[2])
if taken == 1 then redis.call('DEL', KEYS[1], KEYS[3]) end
return taken
"""
_TAKE_SHA = hashlib.sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()


class BellKeys:
    """Redis names on the broker's server."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self.namespace = instance + NAMESPACE

    def channel(self, queue: str) -> str:
        return f"{self._instance}bell:{queue}"

    def worker_channel(self, worker_id: object) -> str:
        return f"{self._instance}worker:{worker_id}"

    def of(self, queue: str) -> list[str]:
        """Mark, list of ids, hash of bodies."""
        return [f"{self._instance}bell:{queue}:mark", f"{self.namespace}:{queue}", f"{self.namespace}:{queue}.msgs"]


class RedisBells:
    """Rings and takes bells on the broker's Redis; an outage is not an error, the sweeper rings again."""

    def __init__(self, link: RedisLink, keys: BellKeys) -> None:
        self.link = link
        self.keys = keys

    def ring(self, queue: str) -> None:
        """One outstanding bell is enough: whoever takes it rings again while there is more."""
        message_id = str(uuid.uuid4())
        arguments = [MARK_LIFE_MS, message_id, bell_message(queue, message_id), self.keys.channel(queue)]
        try:
            with self.link.errors() as client:
                run_script(client, _RING, _RING_SHA, self.keys.of(queue), arguments)
        except RedisAway:
            return

    def take(self, queue: str) -> bool:
        """
        Take the queue's bells; False when there are none.

        Raises:
            RedisAway: could not find out.
        """
        with self.link.errors() as client:
            return bool(run_script(client, _TAKE, _TAKE_SHA, self.keys.of(queue), []))

    def waits(self, queue: str) -> bool:
        """
        Whether there is a bell; it is left there.

        Raises:
            RedisAway: could not find out.
        """
        with self.link.errors() as client:
            return bool(client.exists(self.keys.of(queue)[1]))

    def cancel(self, worker_id: object, public_id: PublicId) -> None:
        """Tell a worker to look at a cancellation now; it finds out at its next heartbeat anyway."""
        self.link.publish(self.keys.worker_channel(worker_id), public_id)


class LateRinger:
    """
    Rings from a thread of its own: whoever commits does not wait for a slow Redis. Thread-safe.

    Bells of one queue that wait are one bell. `close` rings what waits, for half a second at most.
    """

    def __init__(self, bells: RedisBells) -> None:
        self._bells = bells
        self._queues: set[str] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def ring(self, queue: str) -> None:
        with self._changed:
            self._queues.add(queue)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bells", daemon=True)
                self._thread.start()
            self._changed.notify()

    def cancel(self, worker_id: object, public_id: PublicId) -> None:
        self._bells.cancel(worker_id, public_id)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(0.5)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queues and not self._closing:
                    self._changed.wait()
                if not self._queues:
                    return
                queues, self._queues = self._queues, set()
            for queue in queues:
                self._bells.ring(queue)


def bell_message(queue: str, message_id: str) -> bytes:
    """A Dramatiq message (2.2's JSON form) for the actor `bell`, with no arguments."""
    return orjson.dumps(
        {
            "queue_name": queue,
            "actor_name": ACTOR,
            "args": [],
            "kwargs": {},
            "options": {"redis_message_id": message_id},
            "message_id": message_id,
            "message_timestamp": int(time.time() * 1000),
        }
    )
