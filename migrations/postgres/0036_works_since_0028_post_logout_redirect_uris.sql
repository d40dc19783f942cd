-- Where a logout that a client begins may lead back to (OpenID Connect RP-Initiated Logout 1.0 section 3), separated by spaces.
ALTER TABLE clients ADD COLUMN post_logout_redirect_uris TEXT NOT NULL DEFAULT '';
