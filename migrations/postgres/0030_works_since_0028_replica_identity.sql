-- A database that is replicated row by row (a publication) refuses changes of rows that nothing names: these tables have no primary key.
ALTER TABLE client_keys REPLICA IDENTITY USING INDEX client_keys_client_id_key;
ALTER TABLE client_assertions REPLICA IDENTITY USING INDEX client_assertions_client_id_jti_key;
ALTER TABLE federated_identities REPLICA IDENTITY USING INDEX federated_identities_provider_subject_key;
