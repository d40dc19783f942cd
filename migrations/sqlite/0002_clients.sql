CREATE TABLE clients (
    client_id TEXT NOT NULL PRIMARY KEY,
    -- Separated by spaces, as in the protocol.
    grants TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- Separated by spaces: a URI has none. The first is the default.
    audiences TEXT NOT NULL,
    alg TEXT,
    token_ttl BIGINT,
    secret_digest TEXT NOT NULL,
    -- Stays valid until the secret is changed again.
    previous_secret_digest TEXT,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT
);
