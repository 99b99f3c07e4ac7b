-- Loads a service with photos, in turns, and says what it answered:
--   wrk -t1 -c8 -d20s --latency -s docs/examples/post.lua http://127.0.0.1:8000/predict -- one.jpg two.jpg
local requests, place = {}, 0

function init(arguments)
  for _, name in ipairs(arguments) do
    local file = assert(io.open(name, "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "image/jpeg" }, file:read("*a"))
    file:close()
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format("%.1f requests/s, p50 %.2f ms, p99 %.2f ms, %d refused, %d lost\n",
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
