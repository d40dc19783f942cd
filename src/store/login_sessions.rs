//! Table `login_sessions`, as a browser asks for it. Its rows are made and ended together with the grants: [`super::sessions`].

use sqlx::FromRow;

use crate::accounts::session::LoginSession;
use crate::clock::{Seconds, UnixTime};
use crate::values::SessionId;

use super::{Db, StoreError, on_read, on_write};

/// A use of the login's own grant counts as a use of the login session.
const FIND: &str = "SELECT l.login_session_id, l.user_id, l.auth_time, l.amr, l.acr FROM login_sessions l \
                    JOIN users ON users.user_id = l.user_id JOIN tenants ON tenants.tenant_id = l.tenant_id \
                    WHERE l.login_session_id = $1 AND l.revoked_at IS NULL AND l.expires_at > $2 \
                    AND (l.idle_expires_at > $2 OR EXISTS (SELECT 1 FROM sessions s WHERE s.sid = l.login_session_id AND s.rotated_at > $3)) \
                    AND users.suspended_at IS NULL AND tenants.disabled_at IS NULL";
const USE: &str = "UPDATE login_sessions SET idle_expires_at = CASE WHEN $2 < expires_at THEN $2 ELSE expires_at END \
                   WHERE login_session_id = $1 AND revoked_at IS NULL AND idle_expires_at < $3 AND idle_expires_at < expires_at";

#[derive(FromRow)]
struct LoginSessionRow {
    login_session_id: String,
    user_id: String,
    auth_time: i64,
    amr: String,
    acr: Option<String>,
}

impl TryFrom<LoginSessionRow> for LoginSession {
    type Error = StoreError;

    fn try_from(row: LoginSessionRow) -> Result<Self, StoreError> {
        let corrupt = |reason: &str| StoreError::Corrupt {
            table: "login_sessions",
            row: row.login_session_id.clone(),
            reason: reason.to_owned(),
        };
        Ok(Self {
            id: row.login_session_id.parse().map_err(|_| corrupt("its id"))?,
            user: row.user_id.parse().map_err(|_| corrupt("its user"))?,
            auth_time: UnixTime(row.auth_time),
            amr: row.amr.split_ascii_whitespace().map(str::to_owned).collect(),
            acr: row.acr,
        })
    }
}

impl Db {
    /// The login session of this id, if it lives and its user may act. `idle` is how long it may stay unused.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn login_session(
        &self,
        id: SessionId,
        now: UnixTime,
        idle: Seconds,
    ) -> Result<Option<LoginSession>, StoreError> {
        let row: Option<LoginSessionRow> = on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(id.to_string())
            .bind(now.0)
            .bind((now - idle).0)
            .fetch_optional(pool)
            .await)?;
        row.map(LoginSession::try_from).transpose()
    }

    /// Notes that a login session is used; at most sixteen times in its idle limit, so that a login costs no write each time.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn use_login_session(&self, id: SessionId, now: UnixTime, idle: Seconds) -> Result<(), StoreError> {
        let until = now + idle;
        on_write!(self, |pool| sqlx::query(USE)
            .bind(id.to_string())
            .bind(until.0)
            .bind((until - Seconds(idle.0 / 16)).0)
            .execute(pool)
            .await
            .map(|_| ())?);
        Ok(())
    }
}
