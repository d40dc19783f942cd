-- What people see of a client (RFC 7591 section 2).
ALTER TABLE clients ADD COLUMN client_name TEXT;
-- The algorithm of its ID tokens; NULL follows alg (OpenID Connect Registration 1.0 section 2).
ALTER TABLE clients ADD COLUMN id_token_alg TEXT;
-- Where the claims of its scopes are: 'userinfo', or 'id_token' for both.
ALTER TABLE clients ADD COLUMN scope_claims TEXT NOT NULL DEFAULT 'userinfo';
-- The claim that lists the roles of a person, with ':text' behind its name if it is one text; NULL for none.
ALTER TABLE clients ADD COLUMN roles_claim TEXT;
-- What the request asked the ID token to say by its parameter claims, separated by spaces.
ALTER TABLE authorization_codes ADD COLUMN claims TEXT NOT NULL DEFAULT '';
