-- What was denied, ended, disabled or taken back, by name, so that a node reads what is new to it instead of everything.
-- Triggers write it, so that no server, command or person leaves it out.
CREATE TABLE revocation_changes (
    -- Never used twice, also when every row is gone: there is one writer, so its order is that of the commits.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- PostgreSQL's, whose commits have another order.
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

CREATE TRIGGER denied_tokens_inserted AFTER INSERT ON denied_tokens BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'token', NEW.jti);
END;
CREATE TRIGGER denied_tokens_updated AFTER UPDATE ON denied_tokens
    WHEN OLD.denied_until IS NOT NEW.denied_until OR OLD.jti <> NEW.jti BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'token', NEW.jti);
END;
CREATE TRIGGER denied_tokens_deleted AFTER DELETE ON denied_tokens
    WHEN OLD.denied_until > (SELECT reached FROM clock WHERE id = 1) BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'token', OLD.jti);
END;

CREATE TRIGGER sessions_inserted AFTER INSERT ON sessions
    WHEN NEW.revoked_at IS NOT NULL BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'session', NEW.sid);
END;
CREATE TRIGGER sessions_updated AFTER UPDATE ON sessions
    WHEN OLD.revoked_at IS NOT NEW.revoked_at OR OLD.sid <> NEW.sid BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'session', NEW.sid);
END;
CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions
    WHEN OLD.revoked_at IS NOT NULL AND OLD.expires_at > (SELECT reached FROM clock WHERE id = 1) BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'session', OLD.sid);
END;

CREATE TRIGGER tenants_inserted AFTER INSERT ON tenants
    WHEN NEW.disabled_at IS NOT NULL BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'tenant', NEW.tenant_id);
END;
CREATE TRIGGER tenants_updated AFTER UPDATE ON tenants
    WHEN OLD.disabled_at IS NOT NEW.disabled_at BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'tenant', NEW.tenant_id);
END;
CREATE TRIGGER tenants_deleted AFTER DELETE ON tenants
    WHEN OLD.disabled_at IS NOT NULL BEGIN
    INSERT INTO revocation_changes (txid, kind, name) VALUES (0, 'tenant', OLD.tenant_id);
END;
