-- The resource servers that access tokens are for (RFC 8707), as people see them.
CREATE TABLE resource_servers (
    audience TEXT NOT NULL PRIMARY KEY,
    resource_name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- What clients may ask for at them, and what the consent page says of it: a JSON object of texts by language.
CREATE TABLE scopes (
    scope TEXT NOT NULL PRIMARY KEY,
    audience TEXT NOT NULL REFERENCES resource_servers (audience) ON DELETE CASCADE,
    texts TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX scopes_audience ON scopes (audience);
