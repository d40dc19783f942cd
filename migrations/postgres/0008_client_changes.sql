-- How often a client was registered, changed or deleted, by whichever hand: what a node read holds while this stands.
CREATE TABLE client_changes (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    changes BIGINT NOT NULL
);
INSERT INTO client_changes (id, changes) VALUES (1, 0);
CREATE FUNCTION count_client_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE client_changes SET changes = changes + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER clients_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON clients
    FOR EACH STATEMENT EXECUTE FUNCTION count_client_change();
