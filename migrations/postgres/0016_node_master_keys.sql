-- The ids of the master keys that the node lists, separated by spaces; empty from a version that does not say it.
ALTER TABLE nodes ADD COLUMN master_keys TEXT NOT NULL DEFAULT '';
