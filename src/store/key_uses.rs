//! Table `key_uses`: how often tokens by a key were found valid, and when last, over all nodes.

use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::jose::jwk::Kid;

use super::{Db, StoreError, on_read, on_write};

const FIND: &str = "SELECT verifications, last_verified_at FROM key_uses WHERE kid = $1";
const ADD: &str = "INSERT INTO key_uses (kid, verifications, last_verified_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (kid) DO UPDATE SET verifications = key_uses.verifications + excluded.verifications, \
                   last_verified_at = CASE WHEN key_uses.last_verified_at > excluded.last_verified_at \
                   THEN key_uses.last_verified_at ELSE excluded.last_verified_at END";

/// How a key was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct KeyUse {
    /// How many tokens by it were found valid.
    pub verifications: i64,
    /// When the last one was, in Unix seconds.
    pub last_verified_at: i64,
}

impl KeyUse {
    /// This use and another.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            verifications: self.verifications.saturating_add(other.verifications),
            last_verified_at: self.last_verified_at.max(other.last_verified_at),
        }
    }

    /// One verification.
    #[must_use]
    pub const fn once(now: UnixTime) -> Self {
        Self {
            verifications: 1,
            last_verified_at: now.0,
        }
    }
}

impl Db {
    /// How this key was used; none when no node has seen a valid token by it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_use(&self, kid: &Kid) -> Result<Option<KeyUse>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_as(FIND)
            .bind(kid.as_str())
            .fetch_optional(pool)
            .await)?)
    }

    /// Adds what one node has seen.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn add_key_use(&self, kid: &Kid, seen: KeyUse) -> Result<(), StoreError> {
        on_write!(self, |pool| sqlx::query(ADD)
            .bind(kid.as_str())
            .bind(seen.verifications)
            .bind(seen.last_verified_at)
            .execute(pool)
            .await
            .map(|_| ())?);
        Ok(())
    }
}
