-- wrk's script: request n of a thread takes the next sentences of a file; args are the file, sentences a request and the shape
local sentences, count, shape, at = {}, 1, "sentences", 0

function init(args)
  for line in io.lines(args[1]) do sentences[#sentences + 1] = line end  -- each line is a JSON string
  count, shape = tonumber(args[2]), args[3]
  math.randomseed(tonumber(tostring({}):match("0x(%x+)"), 16) % 2147483647)
  at = math.random(#sentences)
end

function request()
  local chosen = {}
  for n = 1, count do
    at = at % #sentences + 1
    chosen[n] = sentences[at]
  end
  local headers = {["Content-Type"] = "application/json"}
  return wrk.format("POST", nil, headers, '{"' .. shape .. '": [' .. table.concat(chosen, ", ") .. "]}")
end

function done(summary, latency, requests)
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
  io.write(string.format('RESULT {"requests": %d, "seconds": %f, "errors": %d, "p50": %f, "p95": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6, errors,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
