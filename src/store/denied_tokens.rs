//! Table `denied_tokens`: the names of tokens that are refused before their time.

use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::events::Entry;

use super::audit;
use super::{Db, StoreError, in_tx, on_read, on_write};

const ALL: &str = "SELECT jti, denied_until FROM denied_tokens";
const DENY: &str = "INSERT INTO denied_tokens (jti, denied_until, denied_at) VALUES ($1, $2, $3) \
                    ON CONFLICT (jti) DO UPDATE SET denied_until = excluded.denied_until \
                    WHERE denied_tokens.denied_until < excluded.denied_until";
const PRUNE: &str = "DELETE FROM denied_tokens WHERE jti IN \
                     (SELECT jti FROM denied_tokens WHERE denied_until <= $1 ORDER BY denied_until LIMIT $2)";

/// How often a denial is tried that other writers are in the way of.
const TRIES: usize = 3;

/// A token that is refused.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct DeniedToken {
    /// Its name.
    pub jti: String,
    /// Until when, in Unix seconds; nobody accepts it any more from then on.
    pub denied_until: i64,
}

impl Db {
    /// Every denied token, in no order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn denied_tokens(&self) -> Result<Vec<DeniedToken>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_as(ALL).fetch_all(pool).await)?)
    }

    /// Denies a token until this time; false when it is denied for as long already, and then nothing is noted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn deny_token(&self, jti: &str, until: UnixTime, entry: &Entry) -> Result<bool, StoreError> {
        let mut denied = Err(StoreError::Conflict);
        for _ in 0..TRIES {
            denied = self.try_to_deny_token(jti, until, entry).await;
            if !matches!(denied, Err(StoreError::Conflict)) {
                break;
            }
        }
        denied
    }

    async fn try_to_deny_token(&self, jti: &str, until: UnixTime, entry: &Entry) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let denied = in_tx!(&mut tx, |connection| {
            sqlx::query(DENY)
                .bind(jti)
                .bind(until.0)
                .bind(entry.happened_at.0)
                .execute(connection)
                .await?
                .rows_affected()
        });
        if denied == 1 {
            audit::insert(&mut tx, entry).await?;
            tx.commit().await?;
        }
        Ok(denied == 1)
    }

    /// Forgets at most `limit` of the denials whose token no verifier accepts any more; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_denied_tokens(&self, now: UnixTime, limit: u32) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(now.0)
            .bind(i64::from(limit))
            .execute(pool)
            .await?
            .rows_affected()))
    }
}
