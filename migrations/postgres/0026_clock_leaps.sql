-- Keys that stay longer because the time that keys go by has leapt. Times are Unix seconds; 0 is never.
-- The earliest time by which a node in doubt signs; 0 once a node that is sure keeps its keys.
ALTER TABLE clock ADD COLUMN doubted BIGINT NOT NULL DEFAULT 0;
-- Keys that were superseded after the first time are kept as if they had been superseded at the second.
ALTER TABLE clock ADD COLUMN kept_from BIGINT NOT NULL DEFAULT 0;
ALTER TABLE clock ADD COLUMN kept_at BIGINT NOT NULL DEFAULT 0;
-- The sum of the confirmed steps in seconds: a node that was away during one counts it.
ALTER TABLE clock ADD COLUMN stepped BIGINT NOT NULL DEFAULT 0;
