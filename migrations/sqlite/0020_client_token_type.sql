-- The `typ` of a client's access tokens; none is at+jwt. The binary before this one signs at+jwt for every client.
ALTER TABLE clients ADD COLUMN token_type TEXT CHECK (token_type IN ('at+jwt', 'JWT'));
