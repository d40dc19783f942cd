-- What was revoked, in the order of the commits: a node reads what is new since its last look. Times are Unix seconds.
CREATE TABLE revocations (
    -- The transaction that wrote the row, in the order of the commits.
    sequence BIGINT NOT NULL,
    -- Drawn at random for each transaction: a database that was set back gives a sequence again, but not with its mark.
    mark BIGINT NOT NULL,
    -- token (its jti), session (its sid) or tenant (its id: it was disabled or enabled).
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    -- For a token: nobody accepts it any more from then on.
    until BIGINT,
    PRIMARY KEY (sequence, kind, name)
);
CREATE INDEX revocations_until ON revocations (until) WHERE until IS NOT NULL;
CREATE INDEX revocations_timeless ON revocations (sequence) WHERE until IS NULL;

-- The newest sequence. Whoever takes the next one holds this row until the commit, so that no lower one is committed later.
CREATE TABLE revocation_state (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    sequence BIGINT NOT NULL,
    mark BIGINT NOT NULL
);

CREATE FUNCTION new_revocation_mark() RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT CAST(CAST('x' || substr(replace(CAST(gen_random_uuid() AS TEXT), '-', ''), 17, 16) AS BIT(64)) AS BIGINT)
$$;
INSERT INTO revocation_state (id, sequence, mark) VALUES (1, 0, new_revocation_mark());

-- One sequence for all rows of a transaction.
CREATE FUNCTION note_revocation(of_kind TEXT, of_name TEXT, of_until BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    taken TEXT := current_setting('keyround.revocation', true);
BEGIN
    IF taken IS NULL OR taken = '' THEN
        UPDATE revocation_state SET sequence = sequence + 1, mark = new_revocation_mark() WHERE id = 1
            RETURNING CAST(sequence AS TEXT) INTO taken;
        PERFORM set_config('keyround.revocation', taken, true);
    END IF;
    INSERT INTO revocations (sequence, mark, kind, name, until)
        SELECT sequence, mark, of_kind, of_name, of_until FROM revocation_state WHERE id = 1
        ON CONFLICT (sequence, kind, name) DO UPDATE SET until = excluded.until;
END
$$;
CREATE FUNCTION note_denied_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_revocation('token', NEW.jti, NEW.denied_until);
    RETURN NULL;
END
$$;
CREATE FUNCTION note_ended_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_revocation('session', NEW.sid, NULL);
    RETURN NULL;
END
$$;
CREATE FUNCTION note_changed_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_revocation('tenant', NEW.tenant_id, NULL);
    RETURN NULL;
END
$$;
-- At the commit, when the transaction takes no other lock any more: two that end sessions cannot wait for each other.
CREATE CONSTRAINT TRIGGER denied_tokens_noted AFTER INSERT OR UPDATE OF denied_until ON denied_tokens
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_denied_token();
CREATE CONSTRAINT TRIGGER sessions_ended AFTER UPDATE OF revoked_at ON sessions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION note_ended_session();
CREATE CONSTRAINT TRIGGER sessions_begun_ended AFTER INSERT ON sessions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION note_ended_session();
CREATE CONSTRAINT TRIGGER tenants_changed AFTER UPDATE OF disabled_at ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.disabled_at IS DISTINCT FROM NEW.disabled_at) EXECUTE FUNCTION note_changed_tenant();

-- What was revoked before. An access token lives for 15 minutes at most; a day leaves room for clocks that are wrong.
INSERT INTO revocations (sequence, mark, kind, name, until)
    SELECT 0, mark, 'token', jti, denied_until FROM denied_tokens, revocation_state;
INSERT INTO revocations (sequence, mark, kind, name)
    SELECT 0, mark, 'session', sid FROM sessions, revocation_state
    WHERE revoked_at >= extract(epoch FROM now()) - 86400;
-- One more, so that those may be forgotten before anything else is revoked.
UPDATE revocation_state SET sequence = 1, mark = new_revocation_mark();
INSERT INTO revocations (sequence, mark, kind, name) SELECT sequence, mark, 'tenant', 'default' FROM revocation_state;
