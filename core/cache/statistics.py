"""
Figures of all caches over all processes, in the seed's keys (seed: "Cache statistics"), and per cache in a hash:

    conduit:cache:stats:hits | misses | invalidations     numbers; hits + misses = questions
    conduit:cache:stats:reset_time                        RFC 3339, since when they count
    conduit:cache:stats:cache:{name}                      hash, fields as `Counters.take` names them
    conduit:cache:stats:caches                            set of the names
    conduit:cache:stats:processes                         sorted set: who sends, and when it last did (Unix time)
    conduit:cache:stats:sent:{process}                    number of its last message, one hour

Each process counts in memory and sends what it counted every five seconds in one call, never one a request. A message
has a number and counts once, however often it had to be sent; what is not sent yet is kept. A kill loses five seconds.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import Any, cast

import orjson
import redis

from core.cache.counters import Counters
from core.cache.figures import Counts, Figures, added, figures_of
from core.cache.scripts import Script
from core.connections import RedisAway, RedisLink
from core.errors import Unavailable

logger = logging.getLogger(__name__)

SEND_EVERY_S = 5.0
PREFIX = "conduit:cache:stats:"

# KEYS: PREFIX. ARGV: process, number of the message, now, and
# {"hits": 7, "misses": 1, "invalidations": 0, "caches": {name: counts}}.
_SEND = Script(
    """
local stats, process = KEYS[1], ARGV[1]
local now = redis.call('TIME')[1]
redis.call('ZADD', stats .. 'processes', now, process)
redis.call('ZREMRANGEBYSCORE', stats .. 'processes', '-inf', now - 60)
if redis.call('GET', stats .. 'sent:' .. process) == ARGV[2] then return 0 end
redis.call('SET', stats .. 'sent:' .. process, ARGV[2], 'EX', 3600)
redis.call('SET', stats .. 'reset_time', ARGV[3], 'NX')
local counted = cjson.decode(ARGV[4])
for _, total in ipairs({'hits', 'misses', 'invalidations'}) do
  redis.call('INCRBY', stats .. total, counted[total])
end
for name, counts in pairs(counted.caches) do
  redis.call('SADD', stats .. 'caches', name)
  local key = stats .. 'cache:' .. name
  for field, count in pairs(counts) do
    if field ~= 'load_max_us' then
      redis.call('HINCRBY', key, field, count)
    elseif count > tonumber(redis.call('HGET', key, field) or 0) then
      redis.call('HSET', key, field, count)
    end
  end
end
return 1
"""
)

# KEYS: PREFIX. ARGV: "" to read, else the new reset time. {hits, misses, invalidations, reset time, age of the oldest
# sender's last message, {name, {field, count, ...}}, ...}; with a new reset time all is gone after that.
_READ = Script(
    """
local stats = KEYS[1]
local oldest = redis.call('ZRANGE', stats .. 'processes', 0, 0, 'WITHSCORES')[2]
local found = {}
for i, total in ipairs({'hits', 'misses', 'invalidations', 'reset_time'}) do
  found[i] = redis.call('GET', stats .. total) or ''
end
found[5] = oldest and math.max(0, redis.call('TIME')[1] - oldest) or 0
for _, name in ipairs(redis.call('SMEMBERS', stats .. 'caches')) do
  found[#found + 1] = {name, redis.call('HGETALL', stats .. 'cache:' .. name)}
  if ARGV[1] ~= '' then redis.call('DEL', stats .. 'cache:' .. name) end
end
if ARGV[1] ~= '' then
  redis.call('DEL', stats .. 'hits', stats .. 'misses', stats .. 'invalidations', stats .. 'caches')
  redis.call('SET', stats .. 'reset_time', ARGV[1])
end
return found
"""
)

_LEAVE = Script("return redis.call('ZREM', KEYS[1] .. 'processes', ARGV[1])")


def _now() -> datetime:
    return datetime.now(UTC)


class Statistics:
    """
    The counters of this process, and the way to Redis. Thread-safe.

    With Redis switched off (HEADRACE_CACHE=memory) the figures are this process's alone, and so is a reset.
    """

    def __init__(self, link: RedisLink, *, now: Callable[[], datetime] = _now) -> None:
        self._link = link
        self._now = now
        self._process = secrets.token_hex(8)
        self._counters: dict[str, Counters] = {}
        self._lock = Lock()
        self._unsent: dict[str, dict[str, int]] = {}
        self._message: dict[str, dict[str, int]] = {}
        self._number = 0
        self._reset_at = _text(now())

    def counters(self, name: str) -> Counters:
        """Of a cache in this process; made at the first call."""
        with self._lock:
            return self._counters.setdefault(name, Counters(name))

    def flush(self) -> bool:
        """Send what was counted; False: Redis is away, and it goes with the next message."""
        with self._lock:
            return self._flush()

    def read(self) -> Figures:
        """What was counted since the last reset, up to now in this process."""
        return self._read("")

    def reset(self) -> Figures:
        """
        Begin at zero; the figures up to now. What others counted and have not sent yet counts after the reset.

        Raises:
            Unavailable: Redis is away; nothing was reset.
        """
        return self._read(_text(self._now()))

    def close(self) -> None:
        """Send the rest, and be no more one of those who send; who never had anything to send says nothing."""
        with self._lock:
            self._collect()
            if not (self._unsent or self._number):
                return
            while self._flush() and (self._unsent or self._message):
                continue
            try:
                with self._link.errors() as client:
                    _LEAVE.run(client, [PREFIX], [self._process])
            except RedisAway:
                return  # forgotten a minute from now

    def _flush(self) -> bool:
        self._collect()
        if not self._message:
            self._message, self._unsent = self._unsent, {}
            self._number += 1
        # With nothing counted too: the age of the figures is that of the last message.
        figures = figures_of(self._message, reset_at=None, age_s=0, is_complete=True)
        counted = {
            "hits": figures.hits,
            "misses": figures.misses,
            "invalidations": figures.invalidations,
            "caches": self._message,
        }
        arguments: list[Any] = [self._process, self._number, _text(self._now()), orjson.dumps(counted)]
        try:
            with self._link.errors() as client:
                _SEND.run(client, [PREFIX], arguments)
        except RedisAway:
            return False
        except redis.ResponseError as error:  # somebody else's value under a name of ours
            logger.warning("figures of the caches were not stored", extra={"reason": str(error)})
            return False
        self._message = {}
        return True

    def _collect(self) -> None:
        for name, counters in self._counters.items():
            taken = counters.take()
            if taken:
                self._unsent[name] = added(self._unsent.get(name, {}), taken)

    def _read(self, reset_at: str) -> Figures:
        with self._lock:
            while self._flush() and self._unsent:
                continue
            if self._link.is_off:
                return self._read_own(reset_at)
            try:
                with self._link.errors() as client:
                    found = cast("list[Any]", _READ.run(client, [PREFIX], [reset_at]))
            except RedisAway:
                if reset_at:
                    raise Unavailable("Redis is away: the figures were not reset; try again") from None
                return self._read_own("")
        counted = {cache.decode(): _counts(fields) for cache, fields in found[5:]}
        for name in self._counters:
            counted.setdefault(name, {})
        return figures_of(counted, reset_at=found[3].decode() or None, age_s=float(found[4]), is_complete=True)

    def _read_own(self, reset_at: str) -> Figures:
        own: dict[str, Counts] = {name: {} for name in self._counters}
        for counted in (self._message, self._unsent):
            own |= {name: added(own.get(name, {}), counts) for name, counts in counted.items()}
        figures = figures_of(own, reset_at=self._reset_at, age_s=0.0, is_complete=False)
        if reset_at:
            self._reset_at = reset_at
            self._message = {}
            self._unsent = {}
        return figures


def _counts(fields: list[bytes]) -> dict[str, int]:
    return {name.decode(): int(count) for name, count in zip(fields[::2], fields[1::2], strict=True)}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
