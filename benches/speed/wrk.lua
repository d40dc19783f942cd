-- Asks in turn what the lines of a file say: the credentials, a tab, the form.
local requests, last = {}, 0

function init(arguments)
    for line in io.lines(arguments[1]) do
        local credentials, form = line:match("^(.-)\t(.*)$")
        local headers = {
            ["Authorization"] = "Basic " .. credentials,
            ["Content-Type"] = "application/x-www-form-urlencoded",
        }
        table.insert(requests, wrk.format("POST", nil, headers, form))
    end
end

function request()
    last = last % #requests + 1
    return requests[last]
end
