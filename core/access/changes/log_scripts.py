"""
The change log in Redis as scripts: each checks the epoch, and does what it does in one step.

An epoch is one unbroken life of the log. It ends when Redis restarts, fails over, is flushed or restored, or when the
sequence went back: whatever Redis remembers from before may be older than what was revoked since. That is found out
inside each script, by the server's own run id, so that no call slips in between a restart and its discovery.
"""

from __future__ import annotations

MOST_ENTRIES = 4096  # of the log; who is further behind has a gap. An entry has at most 64 KiB, commonly 300 bytes.
TOMBSTONE_MS = 60_000
CANARY_EVERY_MS = 900  # below the second in which each process asks for one

# KEYS: the log (a stream), its head (a hash {epoch, seq, run_id}). ARGV[1]: the epoch to begin when there must be
# another one; ARGV[2], ARGV[3]: epoch and sequence that the caller knows, "" and 0 for none.
_EPOCH = """
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if not run_id then return redis.error_reply('ERR no run_id in INFO server') end
local epoch, seq, known_run
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  epoch, seq, known_run = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'seq', 'run_id'))
end
seq = tonumber(seq or nil)
local went_back = seq and epoch == ARGV[2] and seq < tonumber(ARGV[3])
if not epoch or not seq or known_run ~= run_id or went_back then
  epoch, seq = ARGV[1], 0
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'seq', 0, 'run_id', run_id)
  redis.call('PUBLISH', KEYS[1], 'epoch')
elseif redis.call('TYPE', KEYS[1]).ok ~= 'stream' then
  redis.call('DEL', KEYS[1])
end
local function append(...)
  seq = seq + 1
  redis.call('HSET', KEYS[2], 'seq', seq)
  -- Under its own sequence as id: readers find it without counting.
  local at = string.format('%.0f-0', seq)
  if type(redis.pcall('XADD', KEYS[1], 'MAXLEN', MOST_ENTRIES, at, ...)) == 'table' then
    redis.call('DEL', KEYS[1])  -- somebody else wrote to it; readers see a gap
    redis.call('XADD', KEYS[1], at, ...)
  end
end
""".replace("MOST_ENTRIES", str(MOST_ENTRIES))

# What is under a key may be an entry or a tombstone of core/cache/. A newer tombstone stays, anything else goes: that
# an entry claims to be newer is no proof that it is. The lock of a load that is out goes too: what it brings is old.
_TOMBSTONE = """
local function bury(key, version)
  local head = redis.pcall('GETRANGE', key, 0, 63)
  local there = type(head) == 'string' and string.match(head, '^{"version":%s*(%d+),%s*"tombstone":%s*true')
  if there and tonumber(there) > version then return end
  local stone = '{"version":' .. string.format('%.0f', version) .. ',"tombstone":true}'
  redis.call('SET', key, stone, 'PX', TOMBSTONE_MS)
  redis.call('DEL', key .. ':lock')
end
""".replace("TOMBSTONE_MS", str(TOMBSTONE_MS))

# KEYS[3...]: those that get a tombstone. ARGV[4]: how many; then the version of each; then entries of the log, three
# words each: id, what it holds (change, gap), the text. No entries: the copies only, nobody is told.
ANNOUNCE = (
    _EPOCH
    + _TOMBSTONE
    + """
local graves = tonumber(ARGV[4])
for i = 1, graves do bury(KEYS[2 + i], tonumber(ARGV[4 + i])) end
local told = false
for i = 5 + graves, #ARGV, 3 do
  append('id', ARGV[i], ARGV[i + 1], ARGV[i + 2])
  told = true
end
if told then redis.call('PUBLISH', KEYS[1], string.format('%.0f', seq)) end
return seq
"""
)

# KEYS[3]: the lock of the canary. ARGV[4]: most entries of one answer; ARGV[5]: name of the caller, if a canary may be
# appended, else "". The answer: {epoch, sequence, Redis time in us, entries after ARGV[3]}.
READ = (
    _EPOCH
    + f"""
local now = redis.call('TIME')
local now_us = string.format('%.0f', now[1] * 1000000 + now[2])
if ARGV[5] ~= '' and redis.call('SET', KEYS[3], ARGV[5], 'NX', 'PX', {CANARY_EVERY_MS}) then
  append('canary', now_us, 'by', ARGV[5])
  redis.call('PUBLISH', KEYS[1], string.format('%.0f', seq))
end
local entries = {{}}
if epoch == ARGV[2] and seq > tonumber(ARGV[3]) then
  entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[3] .. '-0', '+', 'COUNT', ARGV[4])
end
return {{epoch, string.format('%.0f', seq), now_us, entries}}
"""
)
