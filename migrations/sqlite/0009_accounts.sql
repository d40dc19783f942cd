-- People: their tenants, their accounts, and one row for each of their logins. Times are Unix seconds, ids are text.

CREATE TABLE tenants (
    tenant_id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT
);

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (tenant_id),
    -- Normalised. A login names no tenant, so it is unique over all of them.
    email TEXT NOT NULL UNIQUE,
    email_verified_at BIGINT,
    name TEXT NOT NULL,
    -- Separated by spaces.
    roles TEXT NOT NULL,
    -- None for who logs in by another provider alone.
    password_hash TEXT,
    password_changed_at BIGINT,
    created_at BIGINT NOT NULL,
    suspended_at BIGINT
);
CREATE INDEX users_tenant_id ON users (tenant_id, user_id);

-- One login is one refresh family is one row, however often it refreshes. The user's row may go before it: what was ended
-- must stay known until no access token of it lives.
CREATE TABLE sessions (
    sid TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    audience TEXT NOT NULL,
    generation BIGINT NOT NULL,
    -- Digests of the secrets of this generation and of the one before it; the salt makes the one from the other.
    current_hash TEXT NOT NULL,
    previous_hash TEXT,
    salt TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    rotated_at BIGINT NOT NULL,
    -- The absolute limit: the row may go from then on, and not before.
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_for TEXT,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL
);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);
CREATE INDEX sessions_revoked_at ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;

-- The generic cell rate algorithm: the time at which a bucket will be empty again.
CREATE TABLE limits (
    bucket TEXT NOT NULL PRIMARY KEY,
    tat BIGINT NOT NULL
);
CREATE INDEX limits_tat ON limits (tat);

-- Other providers that people may log in with. The client secret lies sealed in table secrets.
CREATE TABLE identity_providers (
    provider TEXT NOT NULL PRIMARY KEY,
    issuer TEXT NOT NULL,
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- Since when an account may be linked by an e-mail that is verified on both sides; none when it may not.
    links_verified_emails_since BIGINT,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT
);

CREATE TABLE federated_identities (
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (provider, subject)
);
CREATE INDEX federated_identities_user_id ON federated_identities (user_id);

-- Logins that are on their way through another provider, each once.
CREATE TABLE federated_logins (
    state_digest TEXT NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    browser_digest TEXT NOT NULL,
    return_to TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX federated_logins_expires_at ON federated_logins (expires_at);
