//! Table `verifying_keys`: keys from elsewhere that verify and never sign. They change under the lock of `signing_keys`.

use sqlx::FromRow;

use crate::clock::UnixTime;
use crate::jose::jwk::PublicJwk;
use crate::keys::verifying::VerifyingKey;

use super::StoreError;

pub(super) const ROWS: &str =
    "SELECT kid, alg, jwk, published_at, expires_at, revoked_at FROM verifying_keys ORDER BY alg, kid";

#[derive(FromRow)]
pub(super) struct VerifyingKeyRow {
    kid: String,
    alg: String,
    jwk: String,
    published_at: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
}

impl TryFrom<VerifyingKeyRow> for VerifyingKey {
    type Error = StoreError;

    fn try_from(row: VerifyingKeyRow) -> Result<Self, StoreError> {
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
