-- Tokens that are refused though they are signed and not expired.
CREATE TABLE denied_tokens (
    jti TEXT NOT NULL PRIMARY KEY,
    -- Nobody accepts the token any more from then on, so the row may go.
    denied_until BIGINT NOT NULL,
    denied_at BIGINT NOT NULL
);

-- The resources that a client is, separated by spaces: it may introspect tokens for them.
ALTER TABLE clients ADD COLUMN serves TEXT NOT NULL DEFAULT '';

-- How often tokens by a key were found valid, over all nodes; so that one can see who still uses a key before it goes.
CREATE TABLE key_uses (
    kid TEXT NOT NULL PRIMARY KEY,
    verifications BIGINT NOT NULL,
    last_verified_at BIGINT NOT NULL
);
