-- Load for wrk: POSTs of SIZE bytes with a bearer token. It sends nothing during the last part of
-- its time, so that every call is answered before wrk closes the connections.
--
--   wrk … -s calls.lua URL -- SIZE SECONDS [TOKEN]

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } moment;
  int clock_gettime(int clock, moment *now);
]]
local moment = ffi.new("moment")

local function now()
  ffi.C.clock_gettime(1, moment) -- CLOCK_MONOTONIC
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local size, seconds, text, ends

function init(args)
  size, seconds = tonumber(args[1]), tonumber(args[2])
  local head = '{"anthropic_version":"bedrock-2023-05-31","max_tokens":256,'
    .. '"messages":[{"role":"user","content":"'
  local tail = '"}]}'
  local words = string.rep("The quick brown fox jumps over the lazy dog. ", size / 45 + 1)
  local body = head .. words:sub(1, size - #head - #tail) .. tail
  local headers = { ["Content-Type"] = "application/json", ["Accept"] = "application/json" }
  if args[3] then
    headers["Authorization"] = "Bearer " .. args[3]
  end
  text = wrk.format("POST", nil, headers, body)
end

function request()
  ends = ends or now() + seconds
  if now() >= ends then
    return "" -- nothing is sent, and the connection waits
  end
  return text
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "answers=%d failed=%d p50_us=%d p99_us=%d\n", summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
