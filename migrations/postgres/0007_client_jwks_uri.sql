-- A client may publish its keys itself: then they are fetched, and none are kept here. The binary before this one finds an
-- empty set, and refuses such a client.
ALTER TABLE client_keys ADD COLUMN jwks_uri TEXT CHECK (jwks_uri IS NULL OR jwks = '{"keys":[]}');
