-- Clients that prove themselves by signature (RFC 7523) instead of a secret.
CREATE TABLE client_keys (
    client_id TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    -- A JWK set of public keys.
    jwks TEXT NOT NULL,
    UNIQUE (client_id)
);

-- The assertions that were accepted, until they expire: none is accepted twice, on whichever node.
CREATE TABLE client_assertions (
    client_id TEXT NOT NULL,
    jti TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    UNIQUE (client_id, jti)
);
CREATE INDEX client_assertions_expires_at ON client_assertions (expires_at);
