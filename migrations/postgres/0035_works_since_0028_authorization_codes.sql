-- Codes of the authorization endpoint (RFC 6749 section 4.1.2), each kept as its digest, until it expires.
CREATE TABLE authorization_codes (
    code_digest TEXT NOT NULL PRIMARY KEY,
    -- What it is bound to: whoever redeems it brings the same.
    client_id TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    code_challenge TEXT,
    -- What it gets.
    login_session_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    audience TEXT NOT NULL,
    nonce TEXT,
    expires_at BIGINT NOT NULL,
    -- The grant that it was redeemed for: a second use ends it.
    grant_id TEXT
);
CREATE INDEX authorization_codes_expires_at ON authorization_codes (expires_at);
CREATE INDEX authorization_codes_user_id ON authorization_codes (user_id);
CREATE INDEX authorization_codes_client_id ON authorization_codes (client_id);

-- What a person has allowed a client to do at a resource: all scopes so far.
CREATE TABLE consents (
    user_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    audience TEXT NOT NULL,
    scope TEXT NOT NULL,
    granted_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, client_id, audience)
);
CREATE INDEX consents_client_id ON consents (client_id);

-- What a grant allows: its access tokens carry it. That of a login at /auth has none.
ALTER TABLE sessions ADD COLUMN scope TEXT NOT NULL DEFAULT '';

-- Whether a client must send a code challenge (RFC 7636). A public client always must.
ALTER TABLE clients ADD COLUMN pkce TEXT NOT NULL DEFAULT 'required' CHECK (pkce IN ('required', 'optional'))
    CHECK (pkce = 'required' OR kind = 'confidential');

-- Whichever version deletes a person or a client: nobody who comes later under the same id inherits a consent.
CREATE FUNCTION forget_consents_of_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM consents WHERE user_id = OLD.user_id;
    DELETE FROM authorization_codes WHERE user_id = OLD.user_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER users_consents_forgotten AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION forget_consents_of_user();
CREATE FUNCTION forget_consents_of_client() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM consents WHERE client_id = OLD.client_id;
    DELETE FROM authorization_codes WHERE client_id = OLD.client_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER clients_consents_forgotten AFTER DELETE ON clients FOR EACH ROW EXECUTE FUNCTION forget_consents_of_client();
