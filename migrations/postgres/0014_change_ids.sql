-- A counter repeats on a database that lost its last seconds. A random name does not: what was read under one holds while it stands.
ALTER TABLE key_version ADD COLUMN change_id TEXT NOT NULL DEFAULT '';
ALTER TABLE client_changes ADD COLUMN change_id TEXT NOT NULL DEFAULT '';
-- The change of the keys that the node serves; none from a version that does not know of it.
ALTER TABLE nodes ADD COLUMN change_id TEXT;
CREATE FUNCTION new_change_id() RETURNS TEXT LANGUAGE sql VOLATILE AS $$
    SELECT replace(CAST(gen_random_uuid() AS TEXT), '-', '')
$$;
UPDATE key_version SET change_id = new_change_id();
UPDATE client_changes SET change_id = new_change_id();
CREATE FUNCTION name_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.change_id := new_change_id();
    RETURN NEW;
END
$$;
CREATE TRIGGER keys_changed BEFORE UPDATE ON key_version
    FOR EACH ROW EXECUTE FUNCTION name_key_change();
CREATE OR REPLACE FUNCTION count_client_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE client_changes SET changes = changes + 1, change_id = new_change_id();
    RETURN NULL;
END
$$;
