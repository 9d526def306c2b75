-- SPDX-License-Identifier: Apache-2.0
--
-- Puts the trace context of each request in front of all other headers, as the
-- Wasm filter does. For Envoy's Lua filter as an upstream HTTP filter of the
-- router (Envoy 1.34 or later), where it runs after the tracer has written the
-- context, once per attempt. Envoy keeps header names in lower case, and host as
-- the pseudo header :authority; pseudo headers always lead.
--
-- Settings may stand before this text, as a table of the same name:
--   local settings = {formats = {"w3c", "b3"}, headers = {"x-my-trace"}}
-- formats: whose headers are moved; default: all. headers: further names.

local settings = settings or {}

local CONTEXT, PARENT, STATE = 1, 2, 3

-- The headers of each format: whole names, or a prefix.
local known = {
  w3c = {names = {traceparent = PARENT, tracestate = STATE}},
  b3 = {names = {b3 = CONTEXT}, prefix = "x-b3-"},
  jaeger = {names = {["uber-trace-id"] = CONTEXT}},
  datadog = {prefix = "x-datadog-"},
  skywalking = {names = {sw8 = CONTEXT}},
}

local kinds, prefixes = {}, {}
for _, format in ipairs(settings.formats or {"w3c", "b3", "jaeger", "datadog", "skywalking"}) do
  for name, kind in pairs(known[format].names or {}) do kinds[name] = kind end
  prefixes[#prefixes + 1] = known[format].prefix
end
for _, name in ipairs(settings.headers or {}) do kinds[name:lower()] = CONTEXT end

local byte, sub = string.byte, string.sub
local COLON = byte(":")

-- kind_of returns what a header is, or nil for one that carries no context.
local function kind_of(name)
  local kind = kinds[name]
  if kind then return kind end
  for i = 1, #prefixes do
    local prefix = prefixes[i]
    if #name > #prefix and sub(name, 1, #prefix) == prefix then return CONTEXT end
  end
end

-- insert_behind returns list with more put behind its first n items.
local function insert_behind(list, n, more)
  local out = {}
  for i = 1, n do out[i] = list[i] end
  for i = 1, #more do out[n + i] = more[i] end
  for i = n + 1, #list do out[#more + i] = list[i] end
  return out
end

function envoy_on_request(handle)
  local headers = handle:headers()
  -- All headers but the pseudo ones; context and states are indices of them.
  local names, values, n = {}, {}, 0
  local context, states, parent = {}, {}, nil
  for name, value in pairs(headers) do
    if byte(name) ~= COLON then
      n = n + 1
      names[n], values[n] = name, value
      local kind = kind_of(name)
      if kind == STATE then
        states[#states + 1] = n
      elseif kind then
        context[#context + 1] = n
        if kind == PARENT then parent = #context end
      end
    end
  end
  -- tracestate goes right behind the last traceparent; without one it is a
  -- header like any other.
  if parent and #states > 0 then context = insert_behind(context, parent, states) end

  local in_front, sorted, is_context = true, true, {}
  for i = 1, #context do
    in_front = in_front and context[i] == i
    sorted = sorted and (i == 1 or context[i] > context[i - 1])
    is_context[context[i]] = true
  end
  if in_front then return end -- also when there is none

  -- A header map can only be added to at its end. So whatever has to stand
  -- behind the context is taken out and added again, the context itself only
  -- where its own order changes.
  local order = {}
  if not sorted then order = context end
  local count = #order
  for i = 1, n do
    if not is_context[i] then
      count = count + 1
      order[count] = i
    end
  end
  for i = 1, count do headers:remove(names[order[i]]) end -- all of a name at once
  for i = 1, count do headers:add(names[order[i]], values[order[i]]) end
end
