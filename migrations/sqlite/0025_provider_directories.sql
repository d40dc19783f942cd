-- The directories of a multi-tenant directory service whose people may log in, separated by spaces; '*' for any. None where the issuer
-- is no template.
ALTER TABLE identity_providers ADD COLUMN directories TEXT;
-- Since when `email_verified` may also be the text "true"; none when it may not.
ALTER TABLE identity_providers ADD COLUMN reads_email_verified_text_since BIGINT;
