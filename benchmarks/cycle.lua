-- One POST for ever; what wrk measured, as one line of JSON. With an argument each connection rests
-- before a request, for that many milliseconds on average.
wrk.method = "POST"
wrk.body = '{"id": "o-17", "item": "book"}'
wrk.headers["content-type"] = "application/json"

function init(args)
  local pause_ms = tonumber(args[1])
  if pause_ms then
    -- Not defined otherwise: wrk asks for it before each request.
    function delay() return pause_ms * 2 * math.random() end
  end
  -- A path with `any-N` in place of a segment is one of N paths, at random.
  local before, count, after = wrk.path:match("^(.*/)any%-(%d+)(/.*)$")
  if count then
    count = tonumber(count)
    function request() return wrk.format(nil, before .. math.random(count) .. after) end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
