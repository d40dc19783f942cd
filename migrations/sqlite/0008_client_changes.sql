-- How often a client was registered, changed or deleted, by whichever hand: what a node read holds while this stands.
CREATE TABLE client_changes (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    changes BIGINT NOT NULL
);
INSERT INTO client_changes (id, changes) VALUES (1, 0);
CREATE TRIGGER clients_inserted AFTER INSERT ON clients BEGIN
    UPDATE client_changes SET changes = changes + 1;
END;
CREATE TRIGGER clients_updated AFTER UPDATE ON clients BEGIN
    UPDATE client_changes SET changes = changes + 1;
END;
CREATE TRIGGER clients_deleted AFTER DELETE ON clients BEGIN
    UPDATE client_changes SET changes = changes + 1;
END;
