//! Table `signing_keys`. It changes by [`super::key_change`] alone.

use sqlx::FromRow;

use crate::clock::{Seconds, UnixTime};
use crate::jose::jwk::{Kid, PublicJwk};
use crate::keys::SigningKey;
use crate::keys::kept::Kept;
use crate::keys::lifecycle::Keys;
use crate::keys::verifying::VerifyingKey;

use super::verifying_keys::{self, VerifyingKeyRow};
use super::{ChangeId, Db, StoreError, clock, on_read};

pub(super) const VERSION: &str = "SELECT version, change_id FROM key_version WHERE id = 1";
pub(super) const ROWS: &str = "SELECT kid, alg, generation, jwk, sealed, published_at, activates_at, prepublish, max_token_ttl, \
                    revoked_at FROM signing_keys ORDER BY alg, generation";

/// A row with its private half as it lies in the table.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The row.
    pub key: SigningKey,
    /// The private half under the master key.
    pub sealed: Option<String>,
}

/// All rows at one version. The rows may be newer than the version says, never older.
#[derive(Clone, Debug)]
pub struct StoredKeys {
    /// How many changes came before.
    pub version: i64,
    /// The last of them.
    pub change: ChangeId,
    /// Every row.
    pub rows: Vec<StoredKey>,
    /// The keys that only verify.
    pub verifying: Vec<VerifyingKey>,
    /// Which keys stay longer, because time has leapt.
    pub kept: Option<Kept>,
}

impl StoredKeys {
    /// The rows without their private halves.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(self.rows.iter().map(|row| row.key.clone()).collect())
            .with_verifying(self.verifying.clone())
            .with_kept(self.kept)
    }
}

/// A key pair made for a generation, ready to be written.
#[derive(Clone, Debug)]
pub struct SealedKey {
    /// The public half, whose kid names the row.
    pub jwk: PublicJwk,
    /// The private half under the master key.
    pub sealed: String,
}

#[derive(FromRow)]
pub(super) struct VersionRow {
    version: i64,
    change_id: String,
}

#[derive(FromRow)]
pub(super) struct SigningKeyRow {
    kid: String,
    alg: String,
    generation: i64,
    jwk: Option<String>,
    sealed: Option<String>,
    published_at: i64,
    activates_at: i64,
    prepublish: i64,
    max_token_ttl: i64,
    revoked_at: Option<i64>,
}

impl TryFrom<SigningKeyRow> for StoredKey {
    type Error = StoreError;

    fn try_from(row: SigningKeyRow) -> Result<Self, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt {
            table: "signing_keys",
            row: row.kid.clone(),
            reason,
        };
        let jwk = row
            .jwk
            .as_deref()
            .map(PublicJwk::parse)
            .transpose()
            .map_err(|error| corrupt(error.to_string()))?;
        let kid: Kid = row.kid.parse().map_err(|_| corrupt("its kid".to_owned()))?;
        if jwk.as_ref().is_some_and(|jwk| jwk.kid != kid) {
            return Err(corrupt("its public key has another kid".to_owned()));
        }
        Ok(Self {
            key: SigningKey {
                alg: row.alg.parse().map_err(|_| corrupt(format!("algorithm {}", row.alg)))?,
                kid,
                generation: row.generation,
                jwk,
                published_at: UnixTime(row.published_at),
                activates_at: UnixTime(row.activates_at),
                prepublish: Seconds(row.prepublish),
                max_token_ttl: Seconds(row.max_token_ttl),
                revoked_at: row.revoked_at.map(UnixTime),
                has_private_half: row.sealed.is_some(),
            },
            sealed: row.sealed,
        })
    }
}

impl Db {
    /// Every row, for a snapshot.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn signing_keys(&self) -> Result<StoredKeys, StoreError> {
        on_read!(self, |pool| {
            // The version first: rows read after it can only be newer.
            let version: VersionRow = sqlx::query_as(VERSION).fetch_one(pool).await?;
            let rows: Vec<SigningKeyRow> = sqlx::query_as(ROWS).fetch_all(pool).await?;
            let verifying = sqlx::query_as(verifying_keys::ROWS).fetch_all(pool).await?;
            let kept = sqlx::query_as(clock::KEPT).fetch_one(pool).await?;
            stored(&version, rows, verifying, kept)
        })
    }

    /// The last change of the keys.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_change(&self) -> Result<ChangeId, StoreError> {
        let row: VersionRow = on_read!(self, |pool| sqlx::query_as(VERSION).fetch_one(pool).await)?;
        ChangeId::read("key_version", &row.change_id)
    }
}

pub(super) fn stored(
    version: &VersionRow,
    rows: Vec<SigningKeyRow>,
    verifying: Vec<VerifyingKeyRow>,
    kept: clock::KeptRow,
) -> Result<StoredKeys, StoreError> {
    let rows = rows.into_iter().map(StoredKey::try_from).collect::<Result<_, _>>()?;
    let verifying = verifying
        .into_iter()
        .map(VerifyingKey::try_from)
        .collect::<Result<_, _>>()?;
    Ok(StoredKeys {
        version: version.version,
        change: ChangeId::read("key_version", &version.change_id)?,
        rows,
        verifying,
        kept: clock::kept(kept),
    })
}
