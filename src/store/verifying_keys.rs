//! Table `verifying_keys`: keys from elsewhere that verify and never sign. They change under the lock of `signing_keys`.

use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::jose::jwk::{Kid, PublicJwk};
use crate::keys::verifying::VerifyingKey;

use super::signing_keys::KeyChange;
use super::{StoreError, in_tx};

pub(super) const ROWS: &str =
    "SELECT kid, alg, jwk, published_at, expires_at, revoked_at FROM verifying_keys ORDER BY alg, kid";
pub(super) const REVOKE: &str = "UPDATE verifying_keys SET revoked_at = $2 WHERE kid = $1 AND revoked_at IS NULL";
pub(super) const PURGE: &str = "DELETE FROM verifying_keys WHERE kid = $1 AND revoked_at IS NULL";
const INSERT: &str = "INSERT INTO verifying_keys (kid, alg, jwk, published_at, expires_at) VALUES ($1, $2, $3, $4, $5)";
const EVER_USED: &str = "SELECT count(*) FROM audit WHERE subject = $1 AND once IN ('key.created', 'key.published')";

#[derive(FromRow)]
pub(super) struct Row {
    kid: String,
    alg: String,
    jwk: String,
    published_at: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
}

impl TryFrom<Row> for VerifyingKey {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt {
            table: "verifying_keys",
            row: row.kid.clone(),
            reason,
        };
        let jwk = PublicJwk::parse(&row.jwk).map_err(|error| corrupt(error.to_string()))?;
        if jwk.kid.as_str() != row.kid || jwk.alg.name() != row.alg {
            return Err(corrupt("its public key has another kid or algorithm".to_owned()));
        }
        Ok(Self {
            jwk,
            published_at: UnixTime(row.published_at),
            expires_at: UnixTime(row.expires_at),
            revoked_at: row.revoked_at.map(UnixTime),
        })
    }
}

impl KeyChange {
    /// Writes a key to verify with.
    ///
    /// # Errors
    /// When the database refuses, above all when the kid exists.
    pub async fn insert_verifying(&mut self, key: &VerifyingKey) -> Result<(), StoreError> {
        in_tx!(&mut self.tx, |connection| {
            sqlx::query(INSERT)
                .bind(key.jwk.kid.as_str())
                .bind(key.jwk.alg.name())
                .bind(key.jwk.to_json())
                .bind(key.published_at.0)
                .bind(key.expires_at.0)
                .execute(connection)
                .await
                .map(|_| ())?;
        });
        Ok(())
    }

    /// Whether a key of this name was ever made or published here, by the audit log, which outlives the row.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn was_ever_used(&mut self, kid: &Kid) -> Result<bool, StoreError> {
        let count: i64 = in_tx!(&mut self.tx, |connection| {
            sqlx::query_scalar(EVER_USED)
                .bind(kid.as_str())
                .fetch_one(connection)
                .await?
        });
        Ok(count > 0)
    }
}
