"""
The limits in Redis: the Lua scripts, what they are called with, and what they answer. Pure but for the text itself.

One call decides any number of asks, one after another. Each first looks at all its rules and writes only when every
one has room, so a refusal takes nothing; the time to live is set in the same call as the value. Values:

- windows, a hash: field `rpm` = `{number of the window} {count in it} {count in the one before}`. It lives to the end
  of the window after the present one, since a count weighs until then. That end is fixed: no write moves it.
- tokens, a string: `{level} {at, Unix time} {capacity}`. It lives until the bucket is full again, at most two minutes.
- reservations, a hash for each day (UTC): id = `{tokens} {capacity}`. It lives to the end of the next day.
- concurrency, a sorted set: lease id by the Unix time at which it ends. It lives as long as the last lease.

A clock that goes back by up to a window counts on in the newest window; one that leaps further begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.access.limits.model import LARGEST, LEASE_S, SLOT_RETRY_S, SLOTS, TOKENS, Ask, Decision, Figures, decide

_COMMON = """
local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
else
  now = tonumber(ARGV[1])
end

local function whole(number) return string.format('%.0f', number) end

-- Another type under our name is junk: it goes, and must not stop the other asks of the batch.
local function read(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    redis.call('DEL', key)
    found = command == 'HMGET' and {}
  end
  return found
end

-- The longer of what the key has and what it needs; a life that no rule could have given (a clock that leapt) is cut.
local function live(key, needs_ms)
  local has_ms = redis.call('PTTL', key)
  if has_ms < needs_ms or has_ms > 172800000 then redis.call('PEXPIRE', key, whole(math.max(1, needs_ms))) end
end

local DAY = 86400

local function bucket(key, capacity)
  local level, at, known = string.match(read('GET', key) or '', '^(%S+) (%S+) (%d+)$')
  level, at, capacity = tonumber(level), tonumber(at), capacity or tonumber(known)
  if not level or not at then return capacity, capacity end
  if at - now > 60 then at = now end
  return math.min(capacity, level + math.max(0, now - at) * capacity / 60), capacity, math.max(at, now)
end

local function put_bucket(key, level, capacity, at)
  if level >= capacity then
    redis.call('DEL', key)
    return
  end
  redis.call('SET', key, string.format('%.17g %.17g %.0f', level, at or now, capacity),
    'PX', whole(math.max(1, math.ceil((capacity - level) * 60000 / capacity))))
end
"""

# KEYS: one per rule. ARGV: now or "", number of asks; per ask its number of rules; per rule its kind and figures.
# Answer: the time, then per ask its rules' figures: {has room, remaining before, reset, retry} in one flat row.
_DECIDE = (
    _COMMON
    + """
local place, key_place = 3, 1

local function take()
  place = place + 1
  return ARGV[place - 1]
end

-- As `limits` 5.8 computes it, in the same order of operations, so that rounding falls the same way.
local function look_window(key)
  local name, limit, size, cost = take(), tonumber(take()), tonumber(take()), tonumber(take())
  local number, at, count, before = math.floor(now / size), now, 0, 0
  local stored, begins = read('HMGET', key, name)[1], true
  if stored then
    local n, c, b = string.match(stored, '^(%d+) (%d+) (%d+)$')
    n, c, b = tonumber(n), tonumber(c), tonumber(b)
    begins = n ~= number
    if n == number then count, before = c, b
    elseif n == number - 1 then before = c
    elseif n == number + 1 then number, at, count, before = n, n * size, c, b end
  end
  local left = before > 0 and (1 - (((at - size) / size) % 1)) * size or 0
  local weighed = math.floor(before * left / size + count)
  local ends_in = (number + 1) * size - now
  local room, wait = limit - cost - count, 0
  if room >= 0 then
    wait = left - (room + 1) * size / math.max(1, before)
  else
    wait = ends_in + math.max(0, size - (limit - cost + 1) * size / math.max(1, count))
  end
  local function write()
    if cost <= 0 then return end
    redis.call('HSET', key, name, whole(number) .. ' ' .. whole(count + cost) .. ' ' .. whole(before))
    -- The end was fixed by the first write of the window.
    if begins then live(key, math.ceil(((number + 2) * size - now) * 1000)) end
  end
  return weighed + cost <= limit, limit - weighed, math.ceil(ends_in), math.floor(math.max(0, wait)) + 1, write
end

local function look_tokens(key)
  local capacity, cost, reservations = tonumber(take()), tonumber(take()), {}
  for _ = 1, tonumber(take()) do
    reservations[#reservations + 1] = {take(), take()}
  end
  local level, _, at = bucket(key, capacity)
  local reset, wait = 0, 0
  if capacity > 0 then
    reset = math.ceil((capacity - level) * 60 / capacity)
    wait = (cost - level) * 60 / capacity
  end
  local function write()
    if cost > 0 then put_bucket(key, level - cost, capacity, at) end
    local held = key .. ':' .. whole(math.floor(now / DAY))
    for _, reservation in ipairs(reservations) do
      redis.call('HSET', held, reservation[1], reservation[2] .. ' ' .. whole(capacity))
    end
    if #reservations > 0 then live(held, math.ceil((math.floor(now / DAY) + 2) * DAY - now) * 1000) end
  end
  return cost <= 0 or level >= cost, math.floor(level), reset, math.floor(math.max(0, wait)) + 1, write
end

local function look_slots(key)
  local limit, lease, leases = tonumber(take()), tonumber(take()), {}
  for _ = 1, tonumber(take()) do leases[#leases + 1] = take() end
  local from, to = '(' .. string.format('%.17g', now), string.format('%.17g', now + 2 * lease)
  local busy = redis.pcall('ZCOUNT', key, from, to)
  if type(busy) == 'table' then
    redis.call('DEL', key)
    busy = 0
  end
  local function write()
    if redis.call('ZCARD', key) > busy then
      redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.17g', now))
      redis.call('ZREMRANGEBYSCORE', key, '(' .. to, '+inf')
    end
    local ends = string.format('%.17g', now + lease)
    for _, id in ipairs(leases) do redis.call('ZADD', key, ends, id) end
    if #leases > 0 then live(key, math.ceil(lease * 1000)) end
  end
  return #leases == 0 or busy + #leases <= limit, limit - busy, 0, RETRY_S, write
end

local looks = {w = look_window, t = look_tokens, s = look_slots}
local answers = {string.format('%.17g', now)}
for _ = 1, tonumber(ARGV[2]) do
  local row, writes, passes = {}, {}, true
  for _ = 1, tonumber(take()) do
    local has_room, remaining, reset, wait, write = looks[take()](KEYS[key_place])
    key_place = key_place + 1
    passes = passes and has_room
    writes[#writes + 1] = write
    row[#row + 1] = has_room and 1 or 0
    row[#row + 1] = remaining
    row[#row + 1] = reset
    row[#row + 1] = math.min(wait, 4000000)
  end
  if passes then
    for _, write in ipairs(writes) do write() end
  end
  answers[#answers + 1] = row
end
return answers
""".replace("RETRY_S", str(SLOT_RETRY_S))
)

# KEYS: tokens and concurrency of each owner. ARGV: now, then per owner the number of tasks and their ids.
# Ends the leases and answers the ids that hold a reservation, for `_SETTLE`; an empty name for the tokens: none does.
_END = (
    _COMMON
    + """
local place, held = 2, {}
for owner = 1, #KEYS / 2 do
  local tokens, slots = KEYS[owner * 2 - 1], KEYS[owner * 2]
  local ids = {}
  for i = 1, tonumber(ARGV[place]) do ids[i] = ARGV[place + i] end
  place = place + #ids + 1
  if redis.call('EXISTS', slots) == 1 then redis.pcall('ZREM', slots, unpack(ids)) end
  local today = math.floor(now / DAY)
  for day = today - 1, today + 1 do
    local key = tokens .. ':' .. whole(day)
    if tokens ~= '' and redis.call('EXISTS', key) == 1 then
      for i, cost in pairs(read('HMGET', key, unpack(ids))) do
        if cost then held[#held + 1] = ids[i] end
      end
    end
  end
end
return held
"""
)

# KEYS: tokens, of each reservation. ARGV: now, then per reservation its id and what was used ("": as reserved).
# Answers how many were settled: one that is not there (settled before, or expired) changes nothing.
_SETTLE = (
    _COMMON
    + """
local settled = 0
for i, key in ipairs(KEYS) do
  local id, used = ARGV[i * 2], tonumber(ARGV[i * 2 + 1])
  local today = math.floor(now / DAY)
  for day = today - 1, today + 1 do
    local held = key .. ':' .. whole(day)
    local value = read('HMGET', held, id)[1]
    if value then
      redis.call('HDEL', held, id)
      local cost, known = string.match(value, '^(%d+) (%d+)$')
      local level, capacity, at = bucket(key, nil)
      if not capacity then level, capacity = tonumber(known), tonumber(known) end
      if cost and capacity > 0 then
        level = math.max(-capacity, math.min(capacity, level + tonumber(cost) - (used or tonumber(cost))))
        put_bucket(key, level, capacity, at)
      end
      settled = settled + 1
    end
  end
end
return settled
"""
)

# KEYS: concurrency. ARGV: now, seconds of a lease, ids. Answers the ids that had no lease and have one now.
_RENEW = (
    _COMMON
    + """
local lease, added = tonumber(ARGV[2]), {}
local ends = string.format('%.17g', now + lease)
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
for i = 3, #ARGV do
  if redis.call('ZADD', KEYS[1], ends, ARGV[i]) == 1 then added[#added + 1] = ARGV[i] end
end
if #ARGV > 2 then live(KEYS[1], math.ceil(lease * 1000)) end
return added
"""
)


@dataclass(frozen=True, slots=True)
class Script:
    """A script with its digest, for EVALSHA."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


DECIDE = _script(_DECIDE)
END = _script(_END)
SETTLE = _script(_SETTLE)
RENEW = _script(_RENEW)


def call_of(asks: Sequence[Ask], now: float | None = None) -> tuple[list[str], list[str | int | float]]:
    """Keys and arguments of DECIDE. `now`: Unix time, seconds; None: the time of Redis."""
    keys: list[str] = []
    arguments: list[str | int | float] = ["" if now is None else repr(now), len(asks)]
    for ask in asks:
        arguments.append(len(ask.windows) + (ask.tokens is not None) + (ask.slots is not None))
        for window in ask.windows:
            keys.append(window.redis_key)
            arguments.extend(("w", window.name, _cut(window.limit), window.window_s, _cut(window.cost)))
        if ask.tokens is not None:
            tokens = ask.tokens
            keys.append(tokens.redis_key)
            arguments.extend(("t", _cut(tokens.limit_per_minute), _cut(tokens.cost), len(tokens.reservations)))
            for reservation, cost in tokens.reservations:
                arguments.extend((reservation, _cut(cost)))
        if ask.slots is not None:
            keys.append(ask.slots.redis_key)
            arguments.extend(("s", _cut(ask.slots.limit), ask.slots.lease_s, len(ask.slots.leases)))
            arguments.extend(ask.slots.leases)
    return keys, arguments


def decisions_from(asks: Sequence[Ask], answer: list[Any]) -> list[Decision]:
    """What DECIDE answered, ask by ask."""
    at = float(answer[0])
    return [_decision(ask, row, at) for ask, row in zip(asks, answer[1:], strict=True)]


def _decision(ask: Ask, row: list[int], at: float) -> Decision:
    named = [(w.name, w.limit, w.cost, w.window_s) for w in ask.windows]
    if ask.tokens is not None:
        named.append((TOKENS, ask.tokens.limit_per_minute, ask.tokens.cost, 60))
    if ask.slots is not None:
        named.append((SLOTS, ask.slots.limit, len(ask.slots.leases), 0))
    rules = [
        Figures(name, limit, cost, row[i] == 1, row[i + 1], row[i + 2], row[i + 3], window_s)
        for i, (name, limit, cost, window_s) in zip(range(0, len(row), 4), named, strict=True)
    ]
    return decide(rules, at)


def renewal_of(leases: Sequence[str], now: float | None, lease_s: float = LEASE_S) -> list[str | int | float]:
    """Arguments of RENEW."""
    return ["" if now is None else repr(now), lease_s, *leases]


def _cut(number: int) -> int:
    return max(0, min(number, LARGEST))
