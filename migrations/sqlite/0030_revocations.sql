-- What was revoked, in the order of the commits: a node reads what is new since its last look. Times are Unix seconds.
CREATE TABLE revocations (
    -- In the order of the commits: SQLite has one writer at a time.
    sequence INTEGER NOT NULL,
    -- Drawn at random for each sequence: a database that was set back gives a sequence again, but not with its mark.
    mark INTEGER NOT NULL,
    -- token (its jti), session (its sid) or tenant (its id: it was disabled or enabled).
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    -- For a token: nobody accepts it any more from then on.
    until INTEGER,
    PRIMARY KEY (sequence, kind, name)
) WITHOUT ROWID;
CREATE INDEX revocations_until ON revocations (until) WHERE until IS NOT NULL;
CREATE INDEX revocations_timeless ON revocations (sequence) WHERE until IS NULL;

-- The newest sequence.
CREATE TABLE revocation_state (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL,
    mark INTEGER NOT NULL
);
INSERT INTO revocation_state (id, sequence, mark) VALUES (1, 0, random());

CREATE TRIGGER denied_tokens_inserted AFTER INSERT ON denied_tokens BEGIN
    UPDATE revocation_state SET sequence = sequence + 1, mark = random();
    INSERT INTO revocations (sequence, mark, kind, name, until)
        SELECT sequence, mark, 'token', NEW.jti, NEW.denied_until FROM revocation_state;
END;
CREATE TRIGGER denied_tokens_updated AFTER UPDATE OF denied_until ON denied_tokens BEGIN
    UPDATE revocation_state SET sequence = sequence + 1, mark = random();
    INSERT INTO revocations (sequence, mark, kind, name, until)
        SELECT sequence, mark, 'token', NEW.jti, NEW.denied_until FROM revocation_state;
END;
CREATE TRIGGER sessions_ended AFTER UPDATE OF revoked_at ON sessions
WHEN OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL BEGIN
    UPDATE revocation_state SET sequence = sequence + 1, mark = random();
    INSERT INTO revocations (sequence, mark, kind, name)
        SELECT sequence, mark, 'session', NEW.sid FROM revocation_state;
END;
CREATE TRIGGER sessions_begun_ended AFTER INSERT ON sessions WHEN NEW.revoked_at IS NOT NULL BEGIN
    UPDATE revocation_state SET sequence = sequence + 1, mark = random();
    INSERT INTO revocations (sequence, mark, kind, name)
        SELECT sequence, mark, 'session', NEW.sid FROM revocation_state;
END;
CREATE TRIGGER tenants_changed AFTER UPDATE OF disabled_at ON tenants
WHEN OLD.disabled_at IS NOT NEW.disabled_at BEGIN
    UPDATE revocation_state SET sequence = sequence + 1, mark = random();
    INSERT INTO revocations (sequence, mark, kind, name)
        SELECT sequence, mark, 'tenant', NEW.tenant_id FROM revocation_state;
END;

-- What was revoked before. An access token lives for 15 minutes at most; a day leaves room for clocks that are wrong.
INSERT INTO revocations (sequence, mark, kind, name, until)
    SELECT 0, mark, 'token', jti, denied_until FROM denied_tokens, revocation_state;
INSERT INTO revocations (sequence, mark, kind, name)
    SELECT 0, mark, 'session', sid FROM sessions, revocation_state
    WHERE revoked_at >= CAST(strftime('%s', 'now') AS INTEGER) - 86400;
-- One more, so that those may be forgotten before anything else is revoked.
UPDATE revocation_state SET sequence = 1, mark = random();
INSERT INTO revocations (sequence, mark, kind, name) SELECT sequence, mark, 'tenant', 'default' FROM revocation_state;
