//! Tables `login_sessions` and `sessions`: one row a login, and one row a grant of it, however often it refreshes.
//!
//! The first grant of a login has the id of its login session. Triggers end both together, and all other grants with them, whichever row
//! and whichever version of Keyround ends first.
//!
//! Whoever ends a session sets `revoked_at` on the row that a refresh claims, so that of the two one comes first. A login holds the
//! rows of its user and tenant until it is committed, so that whoever suspends the user afterwards finds its session.

mod refresh;

use sqlx::FromRow;

use crate::accounts::session::{Device, EndedBy, LoginMethod, Session};
use crate::accounts::user::UserId;
use crate::clock::{Seconds, UnixTime};
use crate::events::{Entry, Event};
use crate::oauth::client::ClientId;
use crate::values::{LONGEST_ACCESS_TOKEN, SessionId};

use super::audit::note;
use super::transaction::retry;
use super::users::StoredUser;
use super::{Db, StoreError, Tx, in_tx, on_read, on_write};

pub use refresh::{Claim, Claimed, Found, POSTGRES_CLAIM, POSTGRES_FAMILY};

/// A login of a user who may have one, with the password that was checked.
macro_rules! begin {
    ($lock:expr) => {
        concat!(
            "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, \
             rotated_at, expires_at, address, user_agent, login_session_id) \
             SELECT $1, users.user_id, users.tenant_id, $2, $3, 1, $4, $5, $6, $6, $7, $8, $9, $1 \
             FROM users JOIN tenants ON tenants.tenant_id = users.tenant_id \
             WHERE users.user_id = $10 AND users.suspended_at IS NULL AND tenants.disabled_at IS NULL \
             AND users.password_hash IS NOT DISTINCT FROM $11",
            $lock
        )
    };
}
// SQLite has one writer, who needs no lock.
const SQLITE_BEGIN: &str = begin!("");
const POSTGRES_BEGIN: &str = begin!(" FOR SHARE");

/// The login session of a grant that was begun a moment ago, in the same transaction.
const BEGIN_LOGIN: &str = "INSERT INTO login_sessions (login_session_id, user_id, tenant_id, auth_time, amr, created_at, \
                           idle_expires_at, expires_at, address, user_agent) \
                           SELECT sid, user_id, tenant_id, created_at, $2, created_at, $3, expires_at, address, user_agent \
                           FROM sessions WHERE sid = $1";
/// A login session that has no grant of its own name, or has lost it.
const END_LOGIN: &str = "UPDATE login_sessions SET revoked_at = $2, revoked_for = $3 \
                         WHERE login_session_id = $1 AND user_id = COALESCE($4, user_id) AND revoked_at IS NULL";
const END_LOGINS_OF_USER: &str = "UPDATE login_sessions SET revoked_at = $2, revoked_for = $3 \
                                  WHERE user_id = $1 AND login_session_id <> $4 AND revoked_at IS NULL";

const ENDED: &str = "SELECT sid FROM sessions WHERE revoked_at >= $1";
/// A session that has ended and of which the database knows nothing else.
const BURY: &str = "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, \
                    rotated_at, expires_at, revoked_at, revoked_for, address, user_agent) \
                    VALUES ($1, $5, 'default', '', '', 0, '', '', $2, $2, $3, $2, $4, '', '') ON CONFLICT (sid) DO NOTHING";
/// The user of a session whose user is not known.
const NO_USER: &str = "00000000-0000-0000-0000-000000000000";
/// How long a session stays written down that has ended and whose row was lost: until its last access token has expired by any clock.
const BURIED_FOR: Seconds = Seconds(LONGEST_ACCESS_TOKEN.0 * 2);
const END: &str = "UPDATE sessions SET revoked_at = $2, revoked_for = $3 \
                   WHERE sid = $1 AND user_id = COALESCE($4, user_id) AND revoked_at IS NULL";
const END_OF_USER: &str = "UPDATE sessions SET revoked_at = $2, revoked_for = $3 \
                           WHERE user_id = $1 AND COALESCE(login_session_id, sid) <> $4 AND revoked_at IS NULL RETURNING sid";
const END_SOME_OF_USER: &str = "UPDATE sessions SET revoked_at = $2, revoked_for = $3 WHERE sid IN \
                                (SELECT sid FROM sessions WHERE user_id = $1 AND COALESCE(login_session_id, sid) <> $4 \
                                AND revoked_at IS NULL LIMIT $5) \
                                AND revoked_at IS NULL RETURNING sid";
/// From a session on, so that the pages together read the table once.
const END_SOME_OF_CLIENT: &str = "UPDATE sessions SET revoked_at = $2, revoked_for = $3 WHERE sid IN \
                                  (SELECT sid FROM sessions WHERE client_id = $1 AND sid > $4 AND revoked_at IS NULL ORDER BY sid LIMIT $5) \
                                  AND revoked_at IS NULL RETURNING sid";
const END_SURPLUS: &str = "UPDATE sessions SET revoked_at = $2, revoked_for = $3 WHERE sid IN \
                           (SELECT sid FROM sessions WHERE user_id = $1 AND sid <> $4 AND COALESCE(login_session_id, sid) = sid \
                           AND revoked_at IS NULL AND expires_at > $2 \
                           ORDER BY rotated_at DESC, sid DESC LIMIT $5 OFFSET $6) AND revoked_at IS NULL RETURNING sid";
const END_OF_SESSION: &str = "SELECT revoked_at, expires_at FROM sessions WHERE sid = $1 AND revoked_at IS NOT NULL";
const BLANK: &str = "UPDATE sessions SET address = '', user_agent = '' WHERE user_id = $1";
const LIVE: &str = "SELECT sid, login_session_id, user_id, tenant_id, client_id, audience, created_at, rotated_at, expires_at, revoked_at, revoked_for, \
                    address, user_agent, scope FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 \
                    AND (rotated_at > $3 OR EXISTS (SELECT 1 FROM login_sessions l WHERE l.login_session_id = sessions.sid \
                    AND l.revoked_at IS NULL AND l.idle_expires_at > $2)) AND COALESCE(login_session_id, sid) = sid ORDER BY rotated_at DESC, sid LIMIT $4";
const PRUNE: &str = "DELETE FROM sessions WHERE sid IN \
                     (SELECT sid FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

const PRUNE_LOGINS: &str = "DELETE FROM login_sessions WHERE login_session_id IN \
                            (SELECT login_session_id FROM login_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

/// How many sessions one transaction ends: so few that no refresh waits for it.
pub const ENDED_AT_ONCE: u32 = 100;

/// A login that is to be written down.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<'a> {
    /// Its id.
    pub sid: SessionId,
    /// The client.
    pub client_id: &'a str,
    /// The `aud` of its access tokens.
    pub audience: &'a str,
    /// The digest of the first secret.
    pub current_hash: &'a str,
    /// The first salt.
    pub salt: &'a str,
    /// How the user was authenticated.
    pub method: LoginMethod,
    /// How long it may stay unused.
    pub idle: Seconds,
    /// How long it may last.
    pub absolute: Seconds,
    /// The most sessions that the user may have; for more, the ones end that were not used for longest.
    pub most: u32,
    /// Where the user logs in from.
    pub device: &'a Device,
}

/// A login that was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunSession {
    /// When it began.
    pub began: UnixTime,
    /// When it will end.
    pub expires_at: UnixTime,
    /// The sessions that ended for it.
    pub ended: Vec<SessionId>,
}

/// Which session ends, and why.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Its id.
    pub sid: SessionId,
    /// Whose it is to be; none leaves it open.
    pub of: Option<UserId>,
    /// Why it ends.
    pub by: EndedBy,
    /// Whether a token proves that there was such a session: without a row the database has lost it, and access tokens of it may live.
    pub is_proven: bool,
}

/// What became of a session that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It ended by this call.
    New,
    /// It had ended before.
    Earlier {
        /// When.
        at: UnixTime,
        /// When it would have expired.
        expires_at: UnixTime,
    },
    /// There is no such session.
    Absent,
}

#[derive(Clone, FromRow)]
struct SessionRow {
    sid: String,
    login_session_id: Option<String>,
    user_id: String,
    tenant_id: String,
    client_id: String,
    audience: String,
    created_at: i64,
    rotated_at: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
    revoked_for: Option<String>,
    address: String,
    user_agent: String,
    scope: String,
}

fn corrupt(sid: &str, reason: &str) -> StoreError {
    StoreError::Corrupt {
        table: "sessions",
        row: sid.to_owned(),
        reason: reason.to_owned(),
    }
}

fn parse_sid(sid: &str) -> Result<SessionId, StoreError> {
    sid.parse().map_err(|_| corrupt(sid, "its id"))
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let corrupt = |reason| corrupt(&row.sid, reason);
        let ended = match (row.revoked_at, row.revoked_for.as_deref()) {
            (None, _) => None,
            (Some(at), reason) => {
                let by: Option<EndedBy> = reason.and_then(|reason| reason.parse().ok());
                Some((UnixTime(at), by.ok_or_else(|| corrupt("why it has ended"))?))
            }
        };
        Ok(Self {
            sid: parse_sid(&row.sid)?,
            login: row.login_session_id.as_deref().map(parse_sid).transpose()?,
            user: row.user_id.parse().map_err(|_| corrupt("its user"))?,
            tenant: row.tenant_id.parse().map_err(|_| corrupt("its tenant"))?,
            client_id: row.client_id,
            audience: row.audience,
            scope: row.scope,
            created_at: UnixTime(row.created_at),
            rotated_at: UnixTime(row.rotated_at),
            expires_at: UnixTime(row.expires_at),
            ended,
            address: row.address,
            user_agent: row.user_agent,
        })
    }
}

impl Db {
    /// Begins a session, as long as its user and tenant may act and the password is the one that was checked; otherwise answers with
    /// nothing. PostgreSQL goes by its own clock, SQLite by `now`. `surplus` is noted for each session that ends for it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_session(
        &self,
        new: &NewSession<'_>,
        user: &StoredUser,
        now: UnixTime,
        entry: &Entry,
        surplus: &Entry,
    ) -> Result<Option<BegunSession>, StoreError> {
        retry(|| self.try_to_begin_session(new, user, now, entry, surplus)).await
    }

    async fn try_to_begin_session(
        &self,
        new: &NewSession<'_>,
        user: &StoredUser,
        now: UnixTime,
        entry: &Entry,
        surplus: &Entry,
    ) -> Result<Option<BegunSession>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(now).await?;
        let expires_at = now + new.absolute;
        let text = tx.text(SQLITE_BEGIN, POSTGRES_BEGIN);
        let inserted = in_tx!(&mut tx, |connection| sqlx::query(text)
            .bind(new.sid.to_string())
            .bind(new.client_id)
            .bind(new.audience)
            .bind(new.current_hash)
            .bind(new.salt)
            .bind(now.0)
            .bind(expires_at.0)
            .bind(&new.device.address)
            .bind(&new.device.user_agent)
            .bind(user.user.id.to_string())
            .bind(user.password_hash.as_deref())
            .execute(connection)
            .await?
            .rows_affected());
        if inserted == 0 {
            return Ok(None);
        }
        in_tx!(&mut tx, |connection| {
            sqlx::query(BEGIN_LOGIN)
                .bind(new.sid.to_string())
                .bind(new.method.amr())
                .bind((now + new.idle.min(new.absolute)).0)
                .execute(connection)
                .await
                .map(|_| ())?;
        });
        note(&mut tx, entry, now).await?;
        let ended: Vec<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(END_SURPLUS)
            .bind(user.user.id.to_string())
            .bind(now.0)
            // Servers before this one know no other reason.
            .bind(EndedBy::Operator.name())
            .bind(new.sid.to_string())
            .bind(i64::from(ENDED_AT_ONCE))
            .bind(i64::from(new.most.saturating_sub(1)))
            .fetch_all(connection)
            .await?);
        for sid in &ended {
            note_for(&mut tx, surplus, sid, now).await?;
        }
        tx.commit().await?;
        let ended = ended.iter().map(|sid| parse_sid(sid)).collect::<Result<_, _>>()?;
        Ok(Some(BegunSession {
            began: now,
            expires_at,
            ended,
        }))
    }

    /// The ids of the sessions that were ended at this time or later, in no order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ended_sessions(&self, since: UnixTime) -> Result<Vec<String>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_scalar(ENDED)
            .bind(since.0)
            .fetch_all(pool)
            .await)?)
    }

    /// Ends a session. Only a new end is noted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_session(&self, ending: &Ending, entry: &Entry) -> Result<SessionEnd, StoreError> {
        retry(|| self.try_to_end_session(ending, entry)).await
    }

    async fn try_to_end_session(&self, ending: &Ending, entry: &Entry) -> Result<SessionEnd, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let of = ending.of.map(|user| user.to_string());
        let mut ended = in_tx!(&mut tx, |connection| sqlx::query(END)
            .bind(ending.sid.to_string())
            .bind(now.0)
            .bind(ending.by.name())
            .bind(&of)
            .execute(connection)
            .await?
            .rows_affected());
        // Its login session may be there without a grant, or after the grant was lost; nodes learn of the end by the row of a grant.
        let had_row = ended > 0;
        if !had_row {
            ended = in_tx!(&mut tx, |connection| sqlx::query(END_LOGIN)
                .bind(ending.sid.to_string())
                .bind(now.0)
                .bind(ending.by.name())
                .bind(&of)
                .execute(connection)
                .await?
                .rows_affected());
        }
        if !had_row && (ended > 0 || ending.is_proven) {
            ended += in_tx!(&mut tx, |connection| sqlx::query(BURY)
                .bind(ending.sid.to_string())
                .bind(now.0)
                .bind((now + BURIED_FOR).0)
                .bind(ending.by.name())
                .bind(of.as_deref().unwrap_or(NO_USER))
                .execute(connection)
                .await?
                .rows_affected());
        }
        if ended > 0 {
            note(&mut tx, entry, now).await?;
            tx.commit().await?;
            return Ok(SessionEnd::New);
        }
        let earlier: Option<(i64, i64)> = in_tx!(&mut tx, |connection| sqlx::query_as(END_OF_SESSION)
            .bind(ending.sid.to_string())
            .fetch_optional(connection)
            .await?);
        Ok(
            earlier.map_or(SessionEnd::Absent, |(at, expires_at)| SessionEnd::Earlier {
                at: UnixTime(at),
                expires_at: UnixTime(expires_at),
            }),
        )
    }

    /// Ends a session again whose end the database lost, perhaps with the session itself; it counts until this time. False when it
    /// has ended already.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_lost_session(&self, sid: &str, until: UnixTime, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let changed = in_tx!(&mut tx, |connection| {
            let ended = sqlx::query(END)
                .bind(sid)
                .bind(now.0)
                .bind(EndedBy::Rollback.name())
                .bind(None::<String>)
                .execute(&mut *connection)
                .await?
                .rows_affected();
            let buried = sqlx::query(BURY)
                .bind(sid)
                .bind(now.0)
                .bind(until.0)
                .bind(EndedBy::Rollback.name())
                .bind(NO_USER)
                .execute(connection)
                .await?
                .rows_affected();
            ended + buried
        });
        if changed > 0 {
            note(&mut tx, entry, now).await?;
            tx.commit().await?;
        }
        Ok(changed > 0)
    }

    /// Ends at most [`ENDED_AT_ONCE`] sessions of a user, but not this one when one is given; answers with those that had not ended.
    /// The entry is noted for each.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_some_sessions_of(
        &self,
        user: UserId,
        except: Option<SessionId>,
        by: EndedBy,
        entry: &Entry,
    ) -> Result<Vec<SessionId>, StoreError> {
        retry(|| self.try_to_end_some_sessions_of(user, except, by, entry)).await
    }

    async fn try_to_end_some_sessions_of(
        &self,
        user: UserId,
        except: Option<SessionId>,
        by: EndedBy,
        entry: &Entry,
    ) -> Result<Vec<SessionId>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let ended: Vec<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(END_SOME_OF_USER)
            .bind(user.to_string())
            .bind(now.0)
            .bind(by.name())
            .bind(except.map(|sid| sid.to_string()).unwrap_or_default())
            .bind(i64::from(ENDED_AT_ONCE))
            .fetch_all(connection)
            .await?);
        for sid in &ended {
            note_for(&mut tx, entry, sid, now).await?;
        }
        if ended.len() < ENDED_AT_ONCE as usize {
            end_logins_of_user(&mut tx, user, except, now, by).await?;
        }
        tx.commit().await?;
        ended.iter().map(|sid| parse_sid(sid)).collect()
    }

    /// Ends at most [`ENDED_AT_ONCE`] grants of a client, of those whose id is greater than `after`; answers with those that had not ended,
    /// in order. The entry is noted for each. No index helps: a client is seldom deleted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_some_grants_of(
        &self,
        client: &ClientId,
        after: Option<SessionId>,
        by: EndedBy,
        entry: &Entry,
    ) -> Result<Vec<SessionId>, StoreError> {
        retry(|| self.try_to_end_some_grants_of(client, after, by, entry)).await
    }

    async fn try_to_end_some_grants_of(
        &self,
        client: &ClientId,
        after: Option<SessionId>,
        by: EndedBy,
        entry: &Entry,
    ) -> Result<Vec<SessionId>, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(entry.happened_at).await?;
        let mut ended: Vec<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(END_SOME_OF_CLIENT)
            .bind(client.as_str())
            .bind(now.0)
            .bind(by.name())
            .bind(after.map(|sid| sid.to_string()).unwrap_or_default())
            .bind(i64::from(ENDED_AT_ONCE))
            .fetch_all(connection)
            .await?);
        ended.sort_unstable();
        for sid in &ended {
            note_for(&mut tx, entry, sid, now).await?;
        }
        tx.commit().await?;
        ended.iter().map(|sid| parse_sid(sid)).collect()
    }

    /// The sessions of a user that have neither ended nor run out, the last used first, and at most this many.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn live_sessions(
        &self,
        user: UserId,
        now: UnixTime,
        idle: Seconds,
        most: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let rows: Vec<SessionRow> = on_read!(self, |pool| sqlx::query_as(LIVE)
            .bind(user.to_string())
            .bind(now.0)
            .bind((now - idle).0)
            .bind(i64::from(most))
            .fetch_all(pool)
            .await)?;
        rows.into_iter().map(Session::try_from).collect()
    }

    /// Forgets at most `limit` of the sessions that expired at this time or earlier, the oldest first; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_sessions(&self, expired: UnixTime, limit: u32) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(expired.0)
            .bind(i64::from(limit))
            .execute(pool)
            .await?
            .rows_affected()))
    }

    /// The same of login sessions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_login_sessions(&self, expired: UnixTime, limit: u32) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE_LOGINS)
            .bind(expired.0)
            .bind(i64::from(limit))
            .execute(pool)
            .await?
            .rows_affected()))
    }
}

/// Ends every session of a user, but this one when one is given; answers with those that had not ended. One that has run out is
/// among them: the last of its access tokens may still live. The user's row is changed first, in the same transaction.
pub(super) async fn end_of_user(
    tx: &mut Tx,
    user: UserId,
    except: Option<SessionId>,
    at: UnixTime,
    by: EndedBy,
) -> Result<Vec<SessionId>, StoreError> {
    let sids: Vec<String> = in_tx!(tx, |connection| sqlx::query_scalar(END_OF_USER)
        .bind(user.to_string())
        .bind(at.0)
        .bind(by.name())
        .bind(except.map(|sid| sid.to_string()).unwrap_or_default())
        .fetch_all(connection)
        .await?);
    end_logins_of_user(tx, user, except, at, by).await?;
    sids.iter().map(|sid| parse_sid(sid)).collect()
}

/// Ends what is left of the login sessions of a user when their grants have ended: those that no client has a grant of.
async fn end_logins_of_user(
    tx: &mut Tx,
    user: UserId,
    except: Option<SessionId>,
    at: UnixTime,
    by: EndedBy,
) -> Result<(), StoreError> {
    in_tx!(tx, |connection| {
        sqlx::query(END_LOGINS_OF_USER)
            .bind(user.to_string())
            .bind(at.0)
            .bind(by.name())
            .bind(except.map(|sid| sid.to_string()).unwrap_or_default())
            .execute(connection)
            .await
            .map(|_| ())?;
    });
    Ok(())
}

/// Forgets where the sessions of a user were used from. The rows stay until they expire: by them their access tokens are refused.
/// Ends this grant and no other; false when it had ended.
pub(super) async fn end_grant(tx: &mut Tx, sid: SessionId, by: EndedBy, now: UnixTime) -> Result<bool, StoreError> {
    let ended = in_tx!(tx, |connection| sqlx::query(END)
        .bind(sid.to_string())
        .bind(now.0)
        .bind(by.name())
        .bind(None::<String>)
        .execute(connection)
        .await?
        .rows_affected());
    Ok(ended > 0)
}

pub(super) async fn blank(tx: &mut Tx, user: UserId) -> Result<(), StoreError> {
    in_tx!(tx, |connection| sqlx::query(BLANK)
        .bind(user.to_string())
        .execute(connection)
        .await?
        .rows_affected());
    Ok(())
}

/// An entry about this session.
async fn note_for(tx: &mut Tx, entry: &Entry, sid: &str, at: UnixTime) -> Result<(), StoreError> {
    let entry = Entry {
        subject: sid.to_owned(),
        ..entry.clone()
    };
    note(tx, &entry, at).await
}

/// That sessions of an account ended by what another entry tells of: one entry for all of them.
pub(super) async fn note_ends(
    tx: &mut Tx,
    ended: &[SessionId],
    cause: &Entry,
    by: EndedBy,
    at: UnixTime,
) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    let entry = Entry {
        event: Event::SessionEnded,
        reason: format!("{} by {}", ended.len(), by.name()),
        once: false,
        ..cause.clone()
    };
    note(tx, &entry, at).await
}
