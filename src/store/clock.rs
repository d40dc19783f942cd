//! Table `clock`: how far time has come, for a start that has no earlier look at the clock.

use crate::clock::{Seconds, UnixTime};
use crate::keys::kept::Kept;
use crate::keys::policy::Policy;
use crate::keys::trusted_time::{ClockRecord, ClockStep, TrustedTime};

use super::nodes::FORGET_LATER;
use super::{Db, StoreError, Tx, in_tx, on_read, on_write};

const RECORD: &str = "SELECT reached, confirmed, doubted, stepped, restored FROM clock WHERE id = 1";
/// Which keys stay longer. It is read after the rows, so it is never older than they are.
pub(super) const KEPT: &str = "SELECT kept_from, kept_at FROM clock WHERE id = 1";
/// What a database says that no node of this version has written to: the newest key, the newest line of the audit log and the
/// newest heartbeat.
const NEWEST: &str = "SELECT MAX(at) FROM (SELECT MAX(published_at) AS at FROM signing_keys \
                      UNION ALL SELECT noted_at FROM audit WHERE seq = (SELECT MAX(seq) FROM audit) \
                      UNION ALL SELECT MAX(seen_at) FROM nodes) AS times";
/// Written only if nothing was confirmed since the look: a node that signs in doubt must not miss that another one is sure.
const REACH: &str = "UPDATE clock SET reached = CASE WHEN reached < $1 THEN $1 ELSE reached END, \
                     doubted = CASE WHEN doubted = 0 OR doubted > $1 THEN $1 ELSE doubted END \
                     WHERE id = 1 AND confirmed = $2 AND stepped = $3";
/// A node that is sure keeps the keys of those that signed in doubt, beside what is kept already. `$2` is the time before which what
/// was kept has ended, less the longest token.
const CONFIRM: &str = "UPDATE clock SET reached = $1, confirmed = $1, \
                       kept_from = CASE WHEN doubted = 0 THEN kept_from \
                       WHEN kept_from < doubted AND kept_at > $2 - (SELECT COALESCE(MAX(max_token_ttl), 0) FROM signing_keys) \
                       THEN kept_from ELSE doubted END, \
                       kept_at = CASE WHEN doubted = 0 THEN kept_at ELSE $1 END, doubted = 0 \
                       WHERE id = 1 AND stepped = $3";
/// A restore on the clock that was ahead was at another time by the right one.
const STEP: &str = "UPDATE clock SET reached = $1, confirmed = $1, doubted = 0, kept_from = $2, kept_at = $3, \
                    stepped = stepped + $4, restored = CASE WHEN restored > $1 THEN restored + $4 ELSE restored END WHERE id = 1";
const RESTORED: &str = "UPDATE clock SET restored = $1 WHERE id = 1";
const SHIFT: &str = "UPDATE signing_keys SET published_at = published_at + $1, activates_at = activates_at + $1 \
                     WHERE revoked_at IS NULL AND activates_at > $2";
/// What a step ahead must not make forgotten: denials, used assertions, and the ends of sessions whose access tokens may still live.
/// A node of this version forgets no denial while it keeps keys after a step, so their times move for older ones beside it.
const KEEP: [&str; 4] = [
    "UPDATE denied_tokens SET denied_until = denied_until + $1 WHERE denied_until > $2",
    "UPDATE client_assertions SET expires_at = expires_at + $1 WHERE expires_at > $2",
    "UPDATE sessions SET revoked_at = revoked_at + $1 WHERE revoked_at > $2",
    "UPDATE login_sessions SET revoked_at = revoked_at + $1 WHERE revoked_at > $2",
];

impl Db {
    /// How far time has come by what is written down.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn clock_record(&self) -> Result<ClockRecord, StoreError> {
        let row: RecordRow = on_read!(self, |pool| sqlx::query_as(RECORD).fetch_one(pool).await)?;
        let record = ClockRecord::from(row);
        if record.reached.is_some() {
            return Ok(record);
        }
        let newest: Option<i64> = on_read!(self, |pool| sqlx::query_scalar(NEWEST).fetch_one(pool).await)?;
        Ok(ClockRecord {
            reached: newest.map(UnixTime),
            ..record
        })
    }

    /// Writes down how far time has come, and answers with the record as it is then. None if another node confirmed the time or a step
    /// since the look.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn write_clock_record(
        &self,
        trusted: &TrustedTime,
        policy: &Policy,
    ) -> Result<Option<ClockRecord>, StoreError> {
        let (read, next) = (trusted.record(), trusted.next_record());
        let windows = policy.windows();
        let (text, second) = if trusted.may_plan() {
            let ended = trusted.reached() - policy.verify_window(windows.max_token_ttl) - windows.clock_skew;
            (CONFIRM, ended)
        } else {
            (REACH, read.confirmed)
        };
        let written = on_write!(self, |pool| sqlx::query(text)
            .bind(trusted.reached().0)
            .bind(second.0)
            .bind(read.stepped.0)
            .execute(pool)
            .await?
            .rows_affected());
        Ok((written > 0).then_some(next))
    }
}

type RecordRow = (i64, i64, i64, i64, i64);

impl From<RecordRow> for ClockRecord {
    fn from((reached, confirmed, doubted, stepped, restored): RecordRow) -> Self {
        let time = |seconds: i64| (seconds > 0).then_some(UnixTime(seconds));
        Self {
            reached: time(reached),
            confirmed: UnixTime(confirmed),
            doubted: time(doubted),
            stepped: Seconds(stepped),
            restored: time(restored),
        }
    }
}

/// Says within a restore when it is.
pub(super) async fn restored(tx: &mut Tx, now: UnixTime) -> Result<(), StoreError> {
    in_tx!(tx, |connection| {
        sqlx::query(RESTORED)
            .bind(now.0)
            .execute(connection)
            .await
            .map(|_| ())?;
    });
    Ok(())
}

/// What is kept, as the table has it.
pub(super) type KeptRow = (i64, i64);

pub(super) fn kept((from, at): KeptRow) -> Option<Kept> {
    (at != 0).then_some(Kept {
        from: UnixTime(from),
        at: UnixTime(at),
    })
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
        if step.to < step.from {
            sqlx::query(FORGET_LATER)
                .bind(step.to.0)
                .execute(&mut *connection)
                .await
                .map(|_| ())?;
        }
        sqlx::query(STEP)
            .bind(step.to.0)
            .bind(step.kept.from.0)
            .bind(step.kept.at.0)
            .bind((step.to - step.from).0)
            .execute(&mut *connection)
            .await
            .map(|_| ())?;
    });
    Ok(())
}

/// What is written down, as it is under the lock.
pub(super) async fn record(tx: &mut Tx) -> Result<ClockRecord, StoreError> {
    let row: RecordRow = in_tx!(tx, |connection| sqlx::query_as(RECORD).fetch_one(connection).await?);
    Ok(row.into())
}
