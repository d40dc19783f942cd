-- Keys of another issuer, or of an earlier time: tokens are verified with them and never signed.
CREATE TABLE verifying_keys (
    -- The name that its tokens carry.
    kid TEXT NOT NULL PRIMARY KEY,
    alg TEXT NOT NULL,
    -- The public half as it is served.
    jwk TEXT NOT NULL,
    published_at BIGINT NOT NULL,
    -- The stated end; nothing that it signed is valid later.
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
