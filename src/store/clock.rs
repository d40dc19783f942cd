//! Table `clock`: how far time has come, for a start that has no earlier look at the clock.

use crate::clock::UnixTime;
use crate::keys::trusted_time::{ClockStep, Record};

use super::{Db, StoreError, Tx, in_tx, on_read, on_write};

const RECORD: &str = "SELECT reached, confirmed FROM clock WHERE id = 1";
const REACHED: &str = "SELECT reached FROM clock WHERE id = 1";
const CONFIRMED: &str = "SELECT confirmed FROM clock WHERE id = 1";
/// What a database says that no node of this version has written to: the newest key, the newest line of the audit log and the
/// newest heartbeat.
const NEWEST: &str = "SELECT MAX(at) FROM (SELECT MAX(published_at) AS at FROM signing_keys \
                      UNION ALL SELECT noted_at FROM audit WHERE seq = (SELECT MAX(seq) FROM audit) \
                      UNION ALL SELECT MAX(seen_at) FROM nodes) AS times";
const REACH: &str = "UPDATE clock SET reached = $1 WHERE id = 1 AND reached < $1";
const CONFIRM: &str = "UPDATE clock SET reached = $1, confirmed = $1 WHERE id = 1";
const SHIFT: &str = "UPDATE signing_keys SET published_at = published_at + $1, activates_at = activates_at + $1 \
                     WHERE revoked_at IS NULL AND activates_at > $2";
/// What a step ahead must not make forgotten: denials, used assertions, and the ends of sessions whose access tokens may still live.
const KEEP: [&str; 3] = [
    "UPDATE denied_tokens SET denied_until = denied_until + $1 WHERE denied_until > $2",
    "UPDATE client_assertions SET expires_at = expires_at + $1 WHERE expires_at > $2",
    "UPDATE sessions SET revoked_at = revoked_at + $1 WHERE revoked_at > $2",
];

impl Db {
    /// How far time has come by what is written down.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn clock_record(&self) -> Result<Record, StoreError> {
        let (reached, confirmed): (i64, i64) = on_read!(self, |pool| sqlx::query_as(RECORD).fetch_one(pool).await)?;
        if reached > 0 {
            return Ok(Record {
                reached: Some(UnixTime(reached)),
                confirmed: UnixTime(confirmed),
            });
        }
        let newest: Option<i64> = on_read!(self, |pool| sqlx::query_scalar(NEWEST).fetch_one(pool).await)?;
        Ok(Record {
            reached: newest.map(UnixTime),
            confirmed: UnixTime(confirmed),
        })
    }

    /// Writes down how far time has come; `sure` says that the clock is not in doubt.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn write_clock_record(&self, reached: UnixTime, sure: bool) -> Result<(), StoreError> {
        let text = if sure { CONFIRM } else { REACH };
        on_write!(self, |pool| sqlx::query(text)
            .bind(reached.0)
            .execute(pool)
            .await
            .map(|_| ())?);
        Ok(())
    }
}

/// Within a change of keys: the keys are at the end of the step what they were at its beginning, and nothing that is refused is
/// forgotten because of it.
pub(super) async fn step(tx: &mut Tx, step: ClockStep) -> Result<(), StoreError> {
    in_tx!(tx, |connection| {
        sqlx::query(SHIFT)
            .bind((step.to - step.from).0)
            .bind(step.newer_than.0)
            .execute(&mut *connection)
            .await
            .map(|_| ())?;
        if step.to > step.from {
            for text in KEEP {
                sqlx::query(text)
                    .bind((step.to - step.from).0)
                    .bind(step.newer_than.0)
                    .execute(&mut *connection)
                    .await
                    .map(|_| ())?;
            }
        }
        sqlx::query(CONFIRM)
            .bind(step.to.0)
            .execute(&mut *connection)
            .await
            .map(|_| ())?;
    });
    Ok(())
}

/// The newest time that a node was sure of.
pub(super) async fn confirmed(tx: &mut Tx) -> Result<UnixTime, StoreError> {
    Ok(UnixTime(in_tx!(tx, |connection| sqlx::query_scalar(CONFIRMED)
        .fetch_one(connection)
        .await?)))
}

/// The newest time that a node has reached.
pub(super) async fn reached(tx: &mut Tx) -> Result<UnixTime, StoreError> {
    Ok(UnixTime(in_tx!(tx, |connection| sqlx::query_scalar(REACHED)
        .fetch_one(connection)
        .await?)))
}
