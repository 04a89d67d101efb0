"""
How often log-ins from an address failed: counted in Redis for all processes, in this one's memory while Redis is away.

A window is fixed: it begins with the first failure and no later one extends it. Counter, threshold and ban are one Lua
call, so that however many fail at once, in however many processes, one of them bans.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
import redis
from redis.client import Pipeline

from core.access.addresses.addresses import BanNetwork
from core.access.addresses.ban_table import BanRow, word_of
from core.connections import RedisAway, RedisLink, run_script

WINDOW_S = 1800.0
MOST_LOCAL = 10_000  # networks counted without Redis, about 250 bytes each; the one that failed least lately gives way
TRUSTED_S = 5.0  # a ban this young may have no row yet; an older one in Redis is only a hint to look for its row

# KEYS: for each network, narrow to wide, its counter and its ban.
# ARGV: window ms, ban ms, reason, then for each network the failures that ban it.
# Returns {place of the ban that is there, its ms left, its text} or {0, place, failures, place, failures, ...} of new
# bans. A value that is not ours (another type, no number, no end) is removed: nothing may count or ban for ever.
_FAIL = """
for i = 2, #KEYS, 2 do
  local ban = redis.pcall('GET', KEYS[i])
  if ban then
    local left = redis.call('PTTL', KEYS[i])
    if type(ban) == 'string' and left > 0 then return {i / 2, left, ban} end
    redis.call('DEL', KEYS[i])
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local found = {0}
for i = 1, #KEYS, 2 do
  local place = (i + 1) / 2
  local failures = redis.pcall('INCR', KEYS[i])
  if type(failures) == 'table' then
    redis.call('DEL', KEYS[i])
    failures = redis.call('INCR', KEYS[i])
  end
  if redis.call('PTTL', KEYS[i]) < 0 then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
  if failures >= tonumber(ARGV[3 + place]) then
    local ban = {['until'] = now + ARGV[2] / 1000, reason = ARGV[3], level = 0, at = now}
    redis.call('SET', KEYS[i + 1], cjson.encode(ban), 'PX', ARGV[2])
    redis.call('DEL', KEYS[i])
    found[#found + 1] = place
    found[#found + 1] = failures
  end
end
return found
"""
_FAIL_SHA = hashlib.sha1(_FAIL.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Crossing:
    """The failure that made one too many."""

    network: BanNetwork
    failures: int


@dataclass(frozen=True, slots=True)
class FoundBan:
    """
    A ban that Redis has.

    Args:
        left_ms: until it ends.
        is_young: made within the last seconds, so that its row may be on its way.
    """

    network: BanNetwork
    left_ms: int
    is_young: bool


class FailedLogins:
    """
    Thread-safe.

    Args:
        after: failures of one address that ban it; a wider network takes `weight` times as many.
        ban_s: how long a first ban lasts; a longer one is known when its row is written.
    """

    def __init__(self, link: RedisLink, instance: str, *, after: int, ban_s: float) -> None:
        self._link = link
        self._instance = instance
        self._after = after
        self._ban_ms = int(ban_s * 1000)
        self._local: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def ban_key(self, network: BanNetwork) -> str:
        return f"{self._instance}ban:{network.word}"

    def count_key(self, network: BanNetwork) -> str:
        return f"{self._instance}failed_login:{network.word}"

    def fail(self, networks: Sequence[BanNetwork], reason: str) -> list[Crossing] | FoundBan:
        """Count one failure of all `networks`, narrow to wide."""
        keys = [key for network in networks for key in (self.count_key(network), self.ban_key(network))]
        limits = [self._after * network.weight for network in networks]
        arguments = [int(WINDOW_S * 1000), self._ban_ms, reason, *limits]
        try:
            with self._link.errors() as client:
                answer = cast("list[Any]", run_script(client, _FAIL, _FAIL_SHA, keys, arguments))
        except RedisAway:
            # closed: without Redis each process counts for itself, so n of them allow n times the failures.
            return self._fail_here(networks)
        if answer[0]:
            left_ms, text = int(answer[1]), bytes(answer[2])
            return FoundBan(networks[int(answer[0]) - 1], left_ms, _is_young(text))
        places = answer[1:]
        return [
            Crossing(networks[int(place) - 1], int(failures))
            for place, failures in zip(places[::2], places[1::2], strict=True)
        ]

    def forget(self, network: BanNetwork) -> None:
        """Its ban in Redis and what was counted of it."""
        with self._lock:
            self._local.pop(network.number, None)
        try:
            with self._link.errors() as client:
                client.delete(self.ban_key(network), self.count_key(network))
        except RedisAway:
            # Nothing is lost: a ban in Redis that has no row any more bans nobody.
            return

    def tell(self, bans: Sequence[tuple[BanRow, int]]) -> None:
        """Bans as their rows have them, each with the milliseconds that are left of it."""
        try:
            with self._link.errors() as client, _pipeline(client) as pipeline:
                for row, left_ms in bans:
                    text = orjson.dumps({"until": row.end_s, "reason": row.reason, "level": row.level})
                    if left_ms > 0:
                        pipeline.set(f"{self._instance}ban:{word_of(row.network)}", text, px=left_ms)
                pipeline.execute()
        except RedisAway:
            # Nothing is lost: their rows ban.
            return

    def _fail_here(self, networks: Sequence[BanNetwork]) -> list[Crossing]:
        now = time.monotonic()
        crossings: list[Crossing] = []
        with self._lock:
            for network in networks:
                count, ends_at = self._local.pop(network.number, (0, 0.0))
                if ends_at <= now:
                    count, ends_at = 0, now + WINDOW_S
                count += 1
                if count >= self._after * network.weight:
                    crossings.append(Crossing(network, count))
                    continue
                self._local[network.number] = (count, ends_at)
                if len(self._local) > MOST_LOCAL:
                    self._local.popitem(last=False)
        return crossings


def _pipeline(client: redis.Redis) -> Pipeline:
    return client.pipeline(transaction=False)  # pyright: ignore[reportUnknownMemberType] (redis-py 8.1: partly typed)


def _is_young(text: bytes) -> bool:
    """Of a ban as Redis has it; what is unreadable is not trusted. By the host's clock: skew costs a look."""
    try:
        value = cast("object", orjson.loads(text))
    except orjson.JSONDecodeError:
        return False
    made_at = cast("dict[str, object]", value).get("at") if isinstance(value, dict) else None
    return isinstance(made_at, int | float) and abs(time.time() - made_at) < TRUSTED_S
