-- A login session apart from its grants: a person logged in once, in one browser or app, and any number of clients have grants of it. The
-- table sessions holds the grants. One without a login session, as a version before this one makes it, counts as its own.
CREATE TABLE login_sessions (
    -- Named in the claim sid. A grant of the same name is the one that the login itself made: when it ends, the login session ends.
    login_session_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    -- When and how the person was authenticated (OpenID Connect Core 1.0 section 2; RFC 8176): methods separated by spaces.
    auth_time BIGINT NOT NULL,
    amr TEXT NOT NULL,
    acr TEXT,
    created_at BIGINT NOT NULL,
    -- Without a use until then it ends; no use moves the absolute limit.
    idle_expires_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_for TEXT,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    CHECK (idle_expires_at <= expires_at),
    CHECK ((revoked_at IS NULL) = (revoked_for IS NULL))
);
CREATE INDEX login_sessions_user_id ON login_sessions (user_id);
CREATE INDEX login_sessions_expires_at ON login_sessions (expires_at);

ALTER TABLE sessions ADD COLUMN login_session_id TEXT;
-- The grant of the login itself is found by its name.
CREATE INDEX sessions_login_session_id ON sessions (login_session_id) WHERE login_session_id <> sid;

-- Whichever of the two ends first, by whichever hand and version: the login session ends with the grant of the login itself, and all
-- grants end with their login session. Each end is noted in revocation_changes by its own trigger.
CREATE FUNCTION end_login_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE login_sessions SET revoked_at = NEW.revoked_at, revoked_for = COALESCE(NEW.revoked_for, '')
    WHERE login_session_id = NEW.sid AND revoked_at IS NULL;
    RETURN NULL;
END
$$;
CREATE TRIGGER sessions_login_ended AFTER UPDATE OF revoked_at ON sessions FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL AND NEW.login_session_id = NEW.sid) EXECUTE FUNCTION end_login_session();
CREATE FUNCTION end_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sessions SET revoked_at = NEW.revoked_at, revoked_for = NEW.revoked_for
    WHERE sid = NEW.login_session_id AND revoked_at IS NULL;
    UPDATE sessions SET revoked_at = NEW.revoked_at, revoked_for = NEW.revoked_for
    WHERE login_session_id = NEW.login_session_id AND login_session_id <> sid AND revoked_at IS NULL;
    RETURN NULL;
END
$$;
CREATE TRIGGER login_sessions_ended AFTER UPDATE OF revoked_at ON login_sessions FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION end_grants();
-- A version before this one blanks the grants of an account that is deleted, and knows no other place.
CREATE FUNCTION forget_devices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE login_sessions SET address = '', user_agent = '' WHERE user_id = OLD.user_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER users_forgotten AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION forget_devices();
