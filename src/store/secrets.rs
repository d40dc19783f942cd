//! Table `secrets`: keys that are not signing keys, each sealed under the master key.

use crate::clock::UnixTime;

use super::{Db, StoreError, on_read, on_write};

const FIND: &str = "SELECT sealed FROM secrets WHERE name = $1";
const INSERT: &str = "INSERT INTO secrets (name, sealed, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";

impl Db {
    /// The secret of this name as it lies in the table.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_scalar(FIND)
            .bind(name)
            .fetch_optional(pool)
            .await)?)
    }

    /// Writes a secret unless one of this name exists, and answers with the one that stands.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_or_insert(&self, name: &str, sealed: &str, now: UnixTime) -> Result<String, StoreError> {
        on_write!(self, |pool| sqlx::query(INSERT)
            .bind(name)
            .bind(sealed)
            .bind(now.0)
            .execute(pool)
            .await
            .map(|_| ())?);
        self.secret(name).await?.ok_or(StoreError::Conflict)
    }
}
