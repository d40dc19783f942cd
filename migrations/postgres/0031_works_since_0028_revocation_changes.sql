-- What was denied, ended, disabled or taken back, by name, so that a node reads what is new to it instead of everything.
-- Triggers write it, so that no server, command or person leaves it out.
CREATE TABLE revocation_changes (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The transaction that made the change: numbers are given out when a transaction begins, and it may commit much later, so a reader
    -- goes by the transactions that its last snapshot did not see. SQLite commits in the order of seq.
    txid BIGINT NOT NULL,
    -- 'token' with a jti, 'session' with a sid, 'tenant' with a tenant_id.
    kind TEXT NOT NULL,
    name TEXT NOT NULL
);
CREATE INDEX revocation_changes_txid ON revocation_changes (txid);

-- How far each node has read. A change stays until every node has read it; a node whose row is gone reads everything again.
CREATE TABLE revocation_readers (
    node_id TEXT NOT NULL PRIMARY KEY,
    -- 128 random bits, drawn at each look: a database that was set back has another one, or none.
    mark TEXT NOT NULL,
    -- The node needs no change whose number is below this one.
    horizon BIGINT NOT NULL
);

-- A denial that has expired is forgotten without a word.
CREATE INDEX denied_tokens_denied_until ON denied_tokens (denied_until);
CREATE INDEX tenants_disabled_at ON tenants (disabled_at) WHERE disabled_at IS NOT NULL;

CREATE FUNCTION note_denied_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.denied_until > (SELECT reached FROM clock WHERE id = 1) THEN
            INSERT INTO revocation_changes (txid, kind, name)
            VALUES (CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT), 'token', OLD.jti);
        END IF;
    ELSE
        INSERT INTO revocation_changes (txid, kind, name)
        VALUES (CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT), 'token', NEW.jti);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER denied_tokens_inserted AFTER INSERT ON denied_tokens
    FOR EACH ROW EXECUTE FUNCTION note_denied_token();
CREATE TRIGGER denied_tokens_updated AFTER UPDATE ON denied_tokens
    FOR EACH ROW WHEN (OLD.denied_until IS DISTINCT FROM NEW.denied_until OR OLD.jti <> NEW.jti) EXECUTE FUNCTION note_denied_token();
CREATE TRIGGER denied_tokens_deleted AFTER DELETE ON denied_tokens
    FOR EACH ROW EXECUTE FUNCTION note_denied_token();

CREATE FUNCTION note_ended_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.expires_at > (SELECT reached FROM clock WHERE id = 1) THEN
            INSERT INTO revocation_changes (txid, kind, name)
            VALUES (CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT), 'session', OLD.sid);
        END IF;
    ELSE
        INSERT INTO revocation_changes (txid, kind, name)
        VALUES (CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT), 'session', NEW.sid);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER sessions_inserted AFTER INSERT ON sessions
    FOR EACH ROW WHEN (NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION note_ended_session();
CREATE TRIGGER sessions_updated AFTER UPDATE ON sessions
    FOR EACH ROW WHEN (OLD.revoked_at IS DISTINCT FROM NEW.revoked_at OR OLD.sid <> NEW.sid) EXECUTE FUNCTION note_ended_session();
CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL) EXECUTE FUNCTION note_ended_session();

CREATE FUNCTION note_disabled_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO revocation_changes (txid, kind, name)
    VALUES (CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT), 'tenant',
        CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant_id ELSE NEW.tenant_id END);
    RETURN NULL;
END
$$;
CREATE TRIGGER tenants_inserted AFTER INSERT ON tenants
    FOR EACH ROW WHEN (NEW.disabled_at IS NOT NULL) EXECUTE FUNCTION note_disabled_tenant();
CREATE TRIGGER tenants_updated AFTER UPDATE ON tenants
    FOR EACH ROW WHEN (OLD.disabled_at IS DISTINCT FROM NEW.disabled_at) EXECUTE FUNCTION note_disabled_tenant();
CREATE TRIGGER tenants_deleted AFTER DELETE ON tenants
    FOR EACH ROW WHEN (OLD.disabled_at IS NOT NULL) EXECUTE FUNCTION note_disabled_tenant();
