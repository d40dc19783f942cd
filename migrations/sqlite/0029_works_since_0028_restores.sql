-- When a backup was restored into this database, in Unix seconds; 0 is never. No session is in a backup, so none from before is left.
ALTER TABLE clock ADD COLUMN restored BIGINT NOT NULL DEFAULT 0;
