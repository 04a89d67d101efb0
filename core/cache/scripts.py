"""
What must be one step in Redis: storing unless something newer is there, dropping, and the short lock of a load.

Each script begins with `HEAD`, which reads the head of what stands under a key. Whoever writes tombstones in a script
of their own (core/access/changes/changes.py) takes `TOMBSTONE_FUNCTION` into it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import redis

from core.connections import run_script

# A tombstone lives 60 s, longer than any load.
# head(key) -> version (-1: nothing of ours is there), whether it is a tombstone, the drop that left it ("": none).
# Another type under our name is junk and goes.
HEAD = """
local function head(key)
  local text = redis.pcall('GETRANGE', key, 0, 159)
  if type(text) == 'table' then redis.call('DEL', key) return -1, false, '' end
  local version = string.match(text, '^{"version":%s*(%d+),%s*"tombstone":%s*true')
    or string.match(text, '^{"tombstone":%s*true,.*"version":%s*(%d+)')
  if version then return tonumber(version), true, string.match(text, '"drop":%s*"(%w*)"') or '' end
  return tonumber(string.match(text, '^{"version":%s*(%d+),') or -1), false, ''
end
"""

# tombstone(key, version or nil, drop or '') -> 1 when something changed. With a version: what is as new stays. Without
# one, anything goes, but what is known of the version of a row stays known. The lock of a load that is out goes too:
# what it brings is old, and who asks from now on need not wait for it.
TOMBSTONE_FUNCTION = (
    HEAD
    + """
local function tombstone(key, version, drop)
  local there, is_tombstone = head(key)
  if version and there >= version then return 0 end
  if not version then version = is_tombstone and there or 0 end
  local text = '{"version":' .. string.format('%.0f', version) .. ',"tombstone":true'
  if drop ~= '' then text = text .. ',"drop":"' .. drop .. '"' end
  redis.call('SET', key, text .. '}', 'PX', 60000)
  redis.call('DEL', key .. ':lock')
  return 1
end
"""
)


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def run(self, client: redis.Redis, keys: list[Any], args: list[Any]) -> Any:
        return run_script(client, self.text, self.sha, keys, args)


# KEYS: the entry, its lock. ARGV: version, value, life in ms, the drop seen before the load ("*": none was looked for),
# token of the lock ("": none is held). 1: stored; 0: something newer is there, or it was dropped since.
PUT = Script(
    HEAD
    + """
if ARGV[5] ~= '' and redis.call('GET', KEYS[2]) == ARGV[5] then redis.call('DEL', KEYS[2]) end
local version, is_tombstone, drop = head(KEYS[1])
if version > tonumber(ARGV[1]) then return 0 end
if is_tombstone and drop ~= '' and ARGV[4] ~= '*' and drop ~= ARGV[4] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
)

# KEYS: entries. ARGV: version or "", the drop or "". How many changed.
DROP = Script(
    TOMBSTONE_FUNCTION
    + """
local changed = 0
for _, key in ipairs(KEYS) do changed = changed + tombstone(key, tonumber(ARGV[1]), ARGV[2]) end
return changed
"""
)

# KEYS: the entry, its lock. ARGV: token, life of the lock in ms. {text or "", 1 when the lock is ours}: read again and
# take the lock in one step, since its last holder may have stored the entry meanwhile.
CLAIM = Script(
    HEAD
    + """
local version, is_tombstone = head(KEYS[1])
local text = redis.call('GET', KEYS[1]) or ''
if version >= 0 and not is_tombstone then return {text, 0} end
local taken = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return {text, taken and 1 or 0}
"""
)

# KEYS: a key. ARGV: its value. Delete it, unless it is another by now.
DISCARD = Script(
    """
local text = redis.pcall('GET', KEYS[1])
if type(text) == 'table' or text == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
)
