-- The session that a login with another provider replaces in its browser. The binary before this one ends none.
ALTER TABLE federated_logins ADD COLUMN replaces TEXT;
