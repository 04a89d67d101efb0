"""
The status of a task as a poller gets it: never backwards, never more than a second behind (law 4).

Final rows never change, so any copy is right: memory (bounded) and Redis for two hours. Live rows are copied to Redis
only, by readers, and each copy carries `as_of`: the Redis time read *before* the row was. A script lets the copy live
until `as_of` + 1 s and refuses it later, so a slow reader cannot store a stale one. A writer stores final rows; for a
live one it leaves a mark, which answers nobody and keeps older copies out. Copies and marks are ordered by `Stamp`;
an older one never replaces a newer one. Redis lost: the row answers.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Any

import orjson
import redis

from core.cache.counters import Counters
from core.connections import RedisAway, RedisLink, run_script
from core.ids import KeyId, PublicId
from core.tasks.model import Stamp, Task

FINAL_LIFE_MS = 2 * 3600 * 1000  # the seed: 2 hours for completed tasks; absolute
LIVE_LIFE_MS = 1000
MEMORY_BYTES = 32 * 1024 * 1024
MEMORY_ENTRY_BYTES = 256 * 1024  # larger answers stay in Redis: one of them must not push out a hundred others
_SPLIT = b',"task":'


class Source(StrEnum):
    """Where a status read was answered from."""

    MEMORY = "memory"
    REDIS = "redis"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Status:
    """A task's wire form with what a reader must check before handing it out."""

    public_id: PublicId
    owner_id: KeyId
    stamp: Stamp
    is_final: bool
    body: bytes
    source: Source


def status_of(task: Task, source: Source = Source.DATABASE) -> Status:
    return Status(task.public_id, task.owner_id, task.stamp, task.state.is_final, task.to_json(), source)


def encode(status: Status, as_of_ms: int) -> bytes:
    """
    The value in Redis: `{"version", "changed_us", "as_of_ms", "final", "owner", "task": {...}}`, in this order.

    The head is found and parsed without touching the task, which may be megabytes.
    """
    head = b'{"version":%d,"changed_us":%d,"as_of_ms":%d,"final":%s,"owner":%s' % (
        status.stamp.version,
        status.stamp.changed_us,
        as_of_ms,
        b"true" if status.is_final else b"false",
        orjson.dumps(status.owner_id),
    )
    return b"".join((head, _SPLIT, status.body, b"}"))


def decode(public_id: PublicId, value: bytes | None) -> Status | None:
    """None for a miss, and for anything that is not ours: junk under the key is a miss, not an error."""
    if value is None:
        return None
    cut = value.find(_SPLIT, 0, 512)
    if cut < 0 or not value.endswith(b"}"):
        return None
    try:
        head = orjson.loads(value[:cut] + b"}")
        stamp = Stamp(int(head["version"]), int(head["changed_us"]))
        return Status(
            public_id, head["owner"], stamp, head["final"] is True, value[cut + len(_SPLIT) : -1], Source.REDIS
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


# KEYS: one per copy. ARGV: "wake" or "", life of a final copy, life of a live one, then four per copy: version,
# changed_us, as_of_ms ("" for final), value. An empty value makes a mark: it answers nobody and keeps older copies out.
# Only the head of a present copy is read (GETRANGE): comparing must not copy megabytes.
_PUT = """
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local stored = 0
for i, key in ipairs(KEYS) do
  local at = 4 + (i - 1) * 4
  local version, changed, value = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 3]
  local life = tonumber(ARGV[3])
  if value ~= '' then
    life = ARGV[at + 2] == '' and tonumber(ARGV[2]) or (tonumber(ARGV[at + 2]) + life - now_ms)
  end
  local head = ''
  if redis.call('TYPE', key).ok == 'string' then head = redis.call('GETRANGE', key, 0, 95) end
  local old_version, old_changed = string.match(head, '^{"version":(%d+),"changed_us":(%d+),')
  old_version, old_changed = tonumber(old_version or -1), tonumber(old_changed or -1)
  local newer = version > old_version or (version == old_version and changed >= old_changed)
  if value == '' and version == old_version and changed == old_changed then
    newer = false
  end
  if newer and life > 0 then
    if value == '' then value = '{"version":' .. ARGV[at] .. ',"changed_us":' .. ARGV[at + 1] .. ',"mark":true}' end
    redis.call('SET', key, value, 'PX', math.min(life, 7200000))
    stored = stored + 1
  elseif newer and old_version >= 0 and version > old_version then
    redis.call('DEL', key)
  end
  if ARGV[1] == 'wake' then redis.call('PUBLISH', key, ARGV[at] .. '-' .. ARGV[at + 1]) end
end
return stored
"""
_PUT_SHA = hashlib.sha1(_PUT.encode(), usedforsecurity=False).hexdigest()


class StatusKeys:
    """The one place where the Redis name of a task's status is made; its wake-up channel has the same name."""

    def __init__(self, instance: str) -> None:
        self._prefix = instance + "async:task:"

    def of(self, public_id: PublicId) -> str:
        return self._prefix + public_id

    def public_id(self, key: str) -> PublicId:
        return PublicId(key.removeprefix(self._prefix))


def redis_time_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()  # pyright: ignore[reportUnknownMemberType] (redis-py 8.1: partly typed)
    return int(seconds) * 1000 + int(micros) // 1000


class FinalStatuses:
    """Final statuses in memory, least lately used first out; bounded by bytes. Thread-safe."""

    def __init__(self, limit_bytes: int = MEMORY_BYTES) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._entries: OrderedDict[PublicId, Status] = OrderedDict()
        self._lock = Lock()

    def get(self, public_id: PublicId) -> Status | None:
        with self._lock:
            status = self._entries.get(public_id)
            if status is not None:
                self._entries.move_to_end(public_id)
            return status

    def put(self, status: Status) -> None:
        if not status.is_final or len(status.body) > MEMORY_ENTRY_BYTES:
            return
        kept = Status(status.public_id, status.owner_id, status.stamp, status.is_final, status.body, Source.MEMORY)
        with self._lock:
            old = self._entries.pop(status.public_id, None)
            self._size += _weight(kept) - (_weight(old) if old else 0)
            self._entries[status.public_id] = kept
            while self._size > self._limit:
                _, dropped = self._entries.popitem(last=False)
                self._size -= _weight(dropped)

    def drop(self, public_ids: Sequence[str]) -> None:
        with self._lock:
            for public_id in public_ids:
                dropped = self._entries.pop(PublicId(public_id), None)
                self._size -= _weight(dropped) if dropped else 0


def _weight(status: Status) -> int:
    return len(status.body) + 500  # the objects around the bytes


class StatusCopies:
    """The copies in Redis, for synchronous code: writers announce after a commit, readers fill."""

    def __init__(self, link: RedisLink, keys: StatusKeys) -> None:
        self._link = link
        self._keys = keys

    def now_ms(self) -> int | None:
        """Redis time for `as_of`, to be read before the row is; None with Redis away."""
        try:
            with self._link.errors() as client:
                return redis_time_ms(client)
        except RedisAway:
            return None

    def get(self, public_id: PublicId) -> Status | None:
        try:
            with self._link.errors() as client:
                try:
                    value: Any = client.get(self._keys.of(public_id))
                except redis.ResponseError:  # another type under our name: junk, the row answers
                    return None
        except RedisAway:
            return None
        return decode(public_id, value)

    def fill(self, status: Status, as_of_ms: int | None) -> None:
        """
        Store what a reader read, unless something newer is there or it is too late.

        Args:
            as_of_ms: Redis time from before the row was read; None: Redis was away, and a live copy is not stored.
        """
        if status.is_final or as_of_ms is not None:
            as_of: int | str = "" if status.is_final or as_of_ms is None else as_of_ms
            stamp = status.stamp
            self._run([status.public_id], ["", stamp.version, stamp.changed_us, as_of, encode(status, as_of_ms or 0)])

    def drop(self, public_ids: Sequence[str]) -> None:
        """
        Raises:
            RedisAway: none was dropped.
        """
        with self._link.errors() as client:
            client.delete(*(self._keys.of(PublicId(public_id)) for public_id in public_ids))

    def announce(self, tasks: Iterable[Task]) -> bool:
        """
        After a commit: store the final ones, mark the others' copies as old, wake the waiters.

        False when Redis was away and nobody was told.
        """
        ids: list[PublicId] = []
        arguments: list[int | str | bytes] = ["wake"]
        for task in tasks:
            ids.append(task.public_id)
            stamp = task.stamp
            value = encode(status_of(task), 0) if task.state.is_final else b""
            arguments.extend((stamp.version, stamp.changed_us, "", value))
        return not ids or self._run(ids, arguments)

    def _run(self, ids: Sequence[PublicId], arguments: list[int | str | bytes]) -> bool:
        keys = [self._keys.of(public_id) for public_id in ids]
        arguments[1:1] = (FINAL_LIFE_MS, LIVE_LIFE_MS)
        try:
            with self._link.errors() as client:
                run_script(client, _PUT, _PUT_SHA, keys, arguments)
        except RedisAway:
            return False
        return True


class StatusReader:
    """Memory, then Redis, then the row. Synchronous; `web/status.py` is its twin on an event loop."""

    def __init__(
        self,
        copies: StatusCopies,
        read_row: Callable[[PublicId], Task | None],
        memory: FinalStatuses | None = None,
        *,
        counters: Counters | None = None,
    ) -> None:
        self._copies = copies
        self._read_row = read_row
        self.memory = memory or FinalStatuses()
        self.counters = counters or Counters("task_status")

    def read(self, public_id: PublicId, *, at_least: Stamp | None = None) -> Status | None:
        """
        The newest status that can be had cheaply and is not older than `at_least`; None: no such task.

        Raises:
            StoreUnavailable: only the row could answer, and the database did not.
        """
        status = self.memory.get(public_id)
        if status is not None:
            self.counters.memory.add()
            return status
        status = self._copies.get(public_id)
        if status is not None and (at_least is None or status.stamp >= at_least):
            self.counters.redis.add()
            self.memory.put(status)
            return status
        self.counters.misses.add()
        as_of_ms = self._copies.now_ms()
        began = time.monotonic()
        task = self._read_row(public_id)
        self.counters.loaded(time.monotonic() - began)
        if task is None:
            return None
        status = status_of(task)
        self._copies.fill(status, as_of_ms)
        self.memory.put(status)
        return status
