-- Times are Unix seconds, lengths are seconds, ids are text. Append-only: a later change is a later file.

CREATE TABLE signing_keys (
    kid TEXT NOT NULL PRIMARY KEY,
    alg TEXT NOT NULL,
    generation BIGINT NOT NULL,
    -- The public half as it is served; none marks the removal of an algorithm.
    jwk TEXT,
    -- The private half under the master key; none once it is destroyed.
    sealed TEXT,
    published_at BIGINT NOT NULL,
    activates_at BIGINT NOT NULL,
    prepublish BIGINT NOT NULL,
    max_token_ttl BIGINT NOT NULL,
    revoked_at BIGINT,
    -- Two nodes that rotate at once make one successor.
    UNIQUE (alg, generation)
);

-- One row: counts the changes to signing_keys, and is the lock that every change takes first.
CREATE TABLE key_version (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);
INSERT INTO key_version (id, version) VALUES (1, 0);

-- Keys that are not signing keys, each under the master key.
CREATE TABLE secrets (
    name TEXT NOT NULL PRIMARY KEY,
    sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE nodes (
    node_id TEXT NOT NULL PRIMARY KEY,
    seen_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    policy_fingerprint TEXT NOT NULL,
    clock_offset BIGINT NOT NULL
);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT NOT NULL,
    -- The key or the client that it is about.
    subject TEXT NOT NULL,
    -- When it took effect, and when a node wrote it down.
    happened_at BIGINT NOT NULL,
    noted_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- What happens once to its subject carries its own name here, so that it is noted once, whichever node noticed.
    once TEXT,
    UNIQUE (subject, once)
);
