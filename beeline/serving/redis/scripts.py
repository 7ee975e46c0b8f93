"""The changes of the queue as scripts, each of which Redis runs as a whole.

Keys begin with PREFIX, whose braces keep them on one node of a cluster:

- ``job:ID``        hash: topic, payload, user, rows, score, turn, attempts, worker, state, progress, result, error
- ``topic:TOPIC``     hash: rows that wait, turn, and counts of jobs: put, done, failed, cancelled, lost workers
- ``waiting:TOPIC``  sorted set of ids, lowest score first: by priority, then by the turn of the user
- ``leases:TOPIC``   sorted set of ids that workers have, by the time in ms until which they keep them
- ``users:TOPIC``    hash: user -> turn of the user's last job, while jobs wait

A topic holds jobs that the same workers can do.  A change of a job is published on the channel ``changed``.
"""

from __future__ import annotations

PREFIX = "{beeline}:"
CHANNEL = f"{PREFIX}changed"

_HEAD = """
local P = '{beeline}:'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function job(id) return P .. 'job:' .. id end
local function publish(id) redis.call('PUBLISH', P .. 'changed', id) end
local function count(topic, name, n) redis.call('HINCRBY', P .. 'topic:' .. topic, name, n) end
local function waits(topic, id)
  redis.call('ZADD', P .. 'waiting:' .. topic, redis.call('HGET', job(id), 'score'), id)
  redis.call('HSET', job(id), 'state', 'waiting', 'worker', '')
  count(topic, 'rows', redis.call('HGET', job(id), 'rows'))
end
local function ends(id, state, kept)
  local topic = redis.call('HGET', job(id), 'topic')
  redis.call('HSET', job(id), 'state', state)
  redis.call('HDEL', job(id), 'latest')
  redis.call('PEXPIRE', job(id), kept)
  if redis.call('ZREM', P .. 'waiting:' .. topic, id) == 1 then
    count(topic, 'rows', -redis.call('HGET', job(id), 'rows'))
  end
  redis.call('ZREM', P .. 'leases:' .. topic, id)
  count(topic, state, 1)
  publish(id)
end
local function open(id)
  local state = redis.call('HGET', job(id), 'state')
  return state == 'waiting' or state == 'running'
end
"""

PUT = (
    _HEAD
    + """
-- id, topic, payload, user, rows, priority, most rows that may wait -> rows that wait, or -rows - 1 if too many
local id, topic, payload, user, rows, priority, most = unpack(ARGV)
local waiting = tonumber(redis.call('HGET', P .. 'topic:' .. topic, 'rows') or 0)
if redis.call('EXISTS', job(id)) == 1 then return waiting end
if waiting + rows > tonumber(most) then return -waiting - 1 end
local turn = tonumber(redis.call('HGET', P .. 'topic:' .. topic, 'turn') or 0)
local last = tonumber(redis.call('HGET', P .. 'users:' .. topic, user) or 0)
turn = math.max(turn, last) + 1
redis.call('HSET', P .. 'users:' .. topic, user, string.format('%.0f', turn))
redis.call('HSET', job(id), 'topic', topic, 'payload', payload, 'user', user, 'rows', rows, 'attempts', 0,
  'progress', '0', 'turn', string.format('%.0f', turn), 'score', string.format('%.0f', turn - priority * 2 ^ 40))
waits(topic, id)
count(topic, 'put', 1)
redis.call('PUBLISH', P .. 'changed', '')
return waiting + rows
"""
)

TAKE = (
    _HEAD
    + """
-- worker, lease in ms, most rows, losses after which a job is given to workers without other jobs, losses of these
-- after which it fails, whether the worker has no jobs, time in ms that results are kept, topics
-- -> id, payload, '1' for a job to be done alone, id, ...
local worker, lease, most, shared, alone, free, kept = unpack(ARGV, 1, 7)
shared, alone = tonumber(shared), tonumber(alone)
local found, rows = {}, 0
for i = 8, #ARGV do
  local topic = ARGV[i]
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases:' .. topic, '-inf', now)) do
    count(topic, 'lost', 1)
    redis.call('ZREM', P .. 'leases:' .. topic, id)
    if tonumber(redis.call('HGET', job(id), 'attempts')) >= shared + alone then
      local message = shared + alone .. ' workers were lost while they had this job; request another'
      redis.call('HSET', job(id), 'error', '{"kind": "server", "message": "' .. message .. '"}')
      ends(id, 'failed', kept)
    else
      waits(topic, id)
    end
  end
  while rows < tonumber(most) do
    local id = redis.call('ZRANGE', P .. 'waiting:' .. topic, 0, 0)[1]
    if not id then redis.call('DEL', P .. 'users:' .. topic) break end
    local turn, more, payload, lost = unpack(redis.call('HMGET', job(id), 'turn', 'rows', 'payload', 'attempts'))
    local suspect = tonumber(lost) >= shared
    if rows > 0 and rows + more > tonumber(most) or suspect and (rows > 0 or free == '0') then return found end
    rows = rows + more
    redis.call('ZREM', P .. 'waiting:' .. topic, id)
    count(topic, 'rows', -more)
    if tonumber(turn) > tonumber(redis.call('HGET', P .. 'topic:' .. topic, 'turn') or 0) then
      redis.call('HSET', P .. 'topic:' .. topic, 'turn', turn)
    end
    redis.call('HSET', job(id), 'state', 'running', 'worker', worker)
    redis.call('HINCRBY', job(id), 'attempts', 1)
    redis.call('ZADD', P .. 'leases:' .. topic, now + lease, id)
    publish(id)
    found[#found + 1] = id
    found[#found + 1] = payload
    found[#found + 1] = suspect and '1' or '0'
    if suspect then return found end
  end
end
return found
"""
)

RENEW = (
    _HEAD
    + """
-- worker, lease in ms, id, progress, state of the flow or '', id, ...
-- -> id, '1' if previews are wanted, id, ... of those that it has
local worker, lease = unpack(ARGV, 1, 2)
local had = {}
for i = 3, #ARGV, 3 do
  local id, progress, latest = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = redis.call('HMGET', job(id), 'worker', 'state', 'progress', 'topic', 'previews')
  local owner, state, before, topic, wanted = unpack(known)
  if owner == worker and state == 'running' then
    redis.call('ZADD', P .. 'leases:' .. topic, now + lease, id)
    if latest ~= '' then redis.call('HSET', job(id), 'latest', latest) end
    if progress ~= before then
      redis.call('HSET', job(id), 'progress', progress)
      publish(id)
    end
    had[#had + 1] = id
    had[#had + 1] = wanted or ''
  end
end
return had
"""
)

FINISH = (
    _HEAD
    + """
-- id, state, result, error, time in ms that results are kept -> 1 for the first end of a job, else 0
local id, state, result, error, kept = unpack(ARGV)
if not open(id) then return 0 end
redis.call('HSET', job(id), 'result', result, 'error', error)
ends(id, state, kept)
return 1
"""
)

GIVE_BACK = (
    _HEAD
    + """
-- worker, ids: those of a worker that stops; they wait again, at their old place
for i = 2, #ARGV do
  local id = ARGV[i]
  local owner, state, topic = unpack(redis.call('HMGET', job(id), 'worker', 'state', 'topic'))
  if owner == ARGV[1] and state == 'running' then
    redis.call('ZREM', P .. 'leases:' .. topic, id)
    redis.call('HINCRBY', job(id), 'attempts', -1)
    waits(topic, id)
  end
end
redis.call('PUBLISH', P .. 'changed', '')
"""
)
