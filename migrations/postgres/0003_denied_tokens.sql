-- Tokens that are refused though they are signed and not expired.
CREATE TABLE denied_tokens (
    jti TEXT NOT NULL PRIMARY KEY,
    -- Nobody accepts the token any more from then on, so the row may go.
    denied_until BIGINT NOT NULL,
    denied_at BIGINT NOT NULL
);

-- The resources that a client is, separated by spaces: it may introspect tokens for them.
ALTER TABLE clients ADD COLUMN serves TEXT NOT NULL DEFAULT '';
