-- Where a node runs, so that a person finds the one that has not followed: its machine, the address of its public listener and its
-- process id. Empty from a node of an earlier version of Keyround.
ALTER TABLE nodes ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN listener TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN process_id INTEGER NOT NULL DEFAULT 0;
