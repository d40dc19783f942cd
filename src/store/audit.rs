//! Table `audit`: what happened to keys and clients, appended and never changed.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::events::{Entry, Event};
use crate::jose::jwk::Kid;

use super::{Db, StoreError, Tx, in_tx, on_read, on_write};

/// PostgreSQL takes a number before it sees a conflict, so what was noted before is looked for first. Numbers are lost only with a
/// transaction that is rolled back.
const INSERT: &str = "INSERT INTO audit (event, subject, happened_at, noted_at, actor, reason, once) \
                      SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM audit WHERE subject = $2 AND once = $7) \
                      ON CONFLICT (subject, once) DO NOTHING";
const NEWEST: &str = "SELECT seq, event, subject, happened_at, noted_at, actor, reason FROM audit \
                      WHERE seq < $1 ORDER BY seq DESC LIMIT $2";

const NEWEST_ABOUT: &str = "SELECT MAX(seq) FROM audit WHERE subject = $1";

/// A revoked key keeps its row, so `PRUNE` leaves the record of its revocation.
const REVOCATIONS: &str = "SELECT subject, MAX(happened_at) FROM audit WHERE event IN ($1, $2) \
                           AND subject IN (SELECT kid FROM signing_keys WHERE revoked_at IS NOT NULL \
                           UNION ALL SELECT kid FROM verifying_keys WHERE revoked_at IS NOT NULL) GROUP BY subject";

const FORGOTTEN: &str = "SELECT COUNT(*) FROM audit WHERE event = $1 AND subject = $2";

macro_rules! bound {
    ($entry:expr, $once:expr) => {
        sqlx::query(INSERT)
            .bind($entry.event.name())
            .bind(&$entry.subject)
            .bind($entry.happened_at.0)
            .bind($entry.noted_at.0)
            .bind(&$entry.actor)
            .bind(&$entry.reason)
            .bind($once)
    };
}

/// The last record stays, so that the numbering goes on; and what happened to a key that has a row, for it would be noted again.
const PRUNE: &str = "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE noted_at < $1 AND seq < (SELECT MAX(seq) FROM audit) \
                     AND (once IS NULL OR (subject NOT IN (SELECT kid FROM signing_keys) \
                     AND subject NOT IN (SELECT kid FROM verifying_keys))) ORDER BY seq LIMIT $2)";

/// What was written down.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
pub struct Record {
    /// Its place in the log.
    pub seq: i64,
    /// What happened.
    pub event: String,
    /// The kid or the client id.
    pub subject: String,
    /// When it took effect, in Unix seconds.
    pub happened_at: i64,
    /// When it was written down, in Unix seconds.
    pub noted_at: i64,
    /// Who did it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// When keys were revoked by the clock of the world. Their rows are dated by the time that keys go by, which after a stop is
/// earlier by the length of the stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationTimes(BTreeMap<String, UnixTime>);

impl RevocationTimes {
    /// When this key was revoked, never earlier than it was; `stored` is what its row says.
    #[must_use]
    pub fn of(&self, kid: &Kid, stored: UnixTime) -> UnixTime {
        self.0.get(kid.as_str()).map_or(stored, |&noted| noted.max(stored))
    }
}

impl Db {
    /// The place of the newest record about this subject.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn newest_record_about(&self, subject: &str) -> Result<Option<i64>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_scalar(NEWEST_ABOUT)
            .bind(subject)
            .fetch_one(pool)
            .await)?)
    }

    /// When the keys that are revoked were revoked.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revocations(&self) -> Result<RevocationTimes, StoreError> {
        let rows: Vec<(String, i64)> = on_read!(self, |pool| sqlx::query_as(REVOCATIONS)
            .bind(Event::KeyRevoked.name())
            .bind(Event::KeyRevocationRestored.name())
            .fetch_all(pool)
            .await)?;
        Ok(RevocationTimes(
            rows.into_iter().map(|(kid, at)| (kid, UnixTime(at))).collect(),
        ))
    }

    /// Whether an operator has said that this server is stopped.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_forgotten_node(&self, node_id: &str) -> Result<bool, StoreError> {
        let count: i64 = on_read!(self, |pool| sqlx::query_scalar(FORGOTTEN)
            .bind(Event::NodeForgotten.name())
            .bind(node_id)
            .fetch_one(pool)
            .await?);
        Ok(count > 0)
    }

    /// The newest records before `before`, newest first; at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit(&self, before: Option<i64>, limit: u32) -> Result<Vec<Record>, StoreError> {
        Ok(on_read!(self, |pool| {
            sqlx::query_as(NEWEST)
                .bind(before.unwrap_or(i64::MAX))
                .bind(i64::from(limit))
                .fetch_all(pool)
                .await
        })?)
    }

    /// Deletes at most so many of the oldest records that were written down before this time; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer, or its role may not delete from the log.
    pub async fn prune_audit(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(before.0)
            .bind(i64::from(limit))
            .execute(pool)
            .await?
            .rows_affected()))
    }

    /// Writes one record; false when it happens once and was noted before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note(&self, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let noted = insert(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(noted)
    }

    /// Writes one record of what happens once to its subject under this name; false when it was noted before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note_once(&self, entry: &Entry, name: &str) -> Result<bool, StoreError> {
        let rows = on_write!(self, |pool| bound!(entry, Some(name))
            .execute(pool)
            .await?
            .rows_affected());
        Ok(rows == 1)
    }
}

/// Notes what took effect at this time by the database's clock.
pub(super) async fn note(tx: &mut Tx, entry: &Entry, at: UnixTime) -> Result<(), StoreError> {
    let entry = entry.clone().that_happened_at(at);
    insert(tx, &entry).await.map(drop)
}

pub(super) async fn insert(tx: &mut Tx, entry: &Entry) -> Result<bool, StoreError> {
    let once = entry.once.then_some(entry.event.name());
    let rows = in_tx!(tx, |connection| bound!(entry, once)
        .execute(connection)
        .await?
        .rows_affected());
    Ok(rows == 1)
}
