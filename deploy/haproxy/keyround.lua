-- Forward authentication for HAProxy: `http-request lua.keyround URL` asks Keyround about the request.
-- 200 sets the headers below; 400, 401 and 403 are passed on; anything else is a 503, so an unanswered question lets nothing through.
local identity = { "subject", "client", "session", "tenant", "roles", "scope" }

local function first(headers, name)
    local values = headers and headers[name]
    return values and values[0]
end

-- HAProxy counts the values of a header from 0, its HTTP client from 1.
local function listed(values)
    local list = {}
    if values then
        local index = 0
        while values[index] do
            list[#list + 1] = values[index]
            index = index + 1
        end
    end
    return list
end

local function refuse(txn, status, headers, body)
    local reply = txn:reply{ status = status, body = body }
    for _, name in ipairs({ "www-authenticate", "content-type" }) do
        local value = first(headers, name)
        if value then reply:add_header(name, value) end
    end
    reply:add_header("cache-control", "no-store")
    txn:done(reply)
end

core.register_action("keyround", { "http-req" }, function(txn, url)
    local question = {
        ["authorization"] = listed(txn.http:req_get_headers()["authorization"]),
        ["x-forwarded-for"] = { txn.sf:src() },
    }
    local answer = core.httpclient():get{ url = url, headers = question, timeout = 5000 }
    local status = answer and answer.status
    if status == 400 or status == 401 or status == 403 then
        return refuse(txn, status, answer.headers, answer.body)
    end
    if status ~= 200 then return refuse(txn, 503) end
    for _, name in ipairs(identity) do
        txn.http:req_set_header("x-auth-" .. name, first(answer.headers, "x-auth-" .. name) or "")
    end
end, 1)
