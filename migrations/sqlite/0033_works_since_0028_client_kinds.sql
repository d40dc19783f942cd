-- A client is one thing, whoever uses it: a service with a secret, a program on a person's device, or the client of the accounts.
-- A confidential client proves itself; a public one cannot (RFC 6749 section 2.1), so it has no secret and acts for persons alone.
ALTER TABLE clients ADD COLUMN kind TEXT NOT NULL DEFAULT 'confidential' CHECK (kind IN ('confidential', 'public'))
    CHECK (kind = 'confidential' OR (secret_digest = '' AND previous_secret_digest IS NULL))
    CHECK (kind = 'confidential' OR grants NOT LIKE '%client_credentials%');
-- How it proves itself at the token endpoint (RFC 7591 section 2); none leaves it to what is registered, a secret or keys.
ALTER TABLE clients ADD COLUMN auth_method TEXT
    CHECK (auth_method IN ('none', 'client_secret_basic', 'client_secret_post', 'private_key_jwt'))
    CHECK ((kind = 'public') = (COALESCE(auth_method, '') = 'none'));
-- Since when it belongs to the operator.
ALTER TABLE clients ADD COLUMN first_party_since BIGINT;
-- Whether a person is asked before it gets a grant; only a client of the operator may do without.
ALTER TABLE clients ADD COLUMN consent TEXT NOT NULL DEFAULT 'ask' CHECK (consent IN ('ask', 'none'))
    CHECK (consent = 'ask' OR first_party_since IS NOT NULL);
-- Separated by spaces: a URI has none. Each is compared as it is written.
ALTER TABLE clients ADD COLUMN redirect_uris TEXT NOT NULL DEFAULT '';
