-- What the requests are comes in as arguments: method, bearer key, body ("" for none), paths (taken by turns).
-- Counts at the end what wrk does not say aloud.
local requests, turn = {}, 0

function init(args)
  local headers = { ["Authorization"] = "Bearer " .. args[2] }
  local body = nil
  if args[3] ~= "" then
    body = args[3]
    headers["Content-Type"] = "application/json"
  end
  for i = 4, #args do
    requests[i - 3] = wrk.format(args[1], args[i], headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %d %d %d\n",
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
