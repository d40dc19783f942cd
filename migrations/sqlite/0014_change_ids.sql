-- A counter repeats on a database that lost its last seconds. A random name does not: what was read under one holds while it stands.
ALTER TABLE key_version ADD COLUMN change_id TEXT NOT NULL DEFAULT '';
ALTER TABLE client_changes ADD COLUMN change_id TEXT NOT NULL DEFAULT '';
-- The change of the keys that the node serves; none from a version that does not know of it.
ALTER TABLE nodes ADD COLUMN change_id TEXT;
UPDATE key_version SET change_id = lower(hex(randomblob(16)));
UPDATE client_changes SET change_id = lower(hex(randomblob(16)));
CREATE TRIGGER keys_changed AFTER UPDATE OF version ON key_version BEGIN
    UPDATE key_version SET change_id = lower(hex(randomblob(16)));
END;
DROP TRIGGER clients_inserted;
DROP TRIGGER clients_updated;
DROP TRIGGER clients_deleted;
CREATE TRIGGER clients_inserted AFTER INSERT ON clients BEGIN
    UPDATE client_changes SET changes = changes + 1, change_id = lower(hex(randomblob(16)));
END;
CREATE TRIGGER clients_updated AFTER UPDATE ON clients BEGIN
    UPDATE client_changes SET changes = changes + 1, change_id = lower(hex(randomblob(16)));
END;
CREATE TRIGGER clients_deleted AFTER DELETE ON clients BEGIN
    UPDATE client_changes SET changes = changes + 1, change_id = lower(hex(randomblob(16)));
END;
