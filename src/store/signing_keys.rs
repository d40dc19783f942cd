//! Table `signing_keys`, with the counter and lock of its changes.

use sqlx::FromRow;

use crate::clock::{Seconds, UnixTime};
use crate::events::Entry;
use crate::jose::jwk::{Kid, PublicJwk};
use crate::keys::SigningKey;
use crate::keys::kept::Kept;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::NewGeneration;
use crate::keys::trusted_time::{ClockStep, Record};
use crate::keys::verifying::VerifyingKey;

use super::audit;
use super::{ChangeId, Db, StoreError, Tx, in_tx, on_read};
use super::{clock, verifying_keys};

pub(super) const VERSION: &str = "SELECT version, change_id FROM key_version WHERE id = 1";
pub(super) const ROWS: &str = "SELECT kid, alg, generation, jwk, sealed, published_at, activates_at, prepublish, max_token_ttl, \
                    revoked_at FROM signing_keys ORDER BY alg, generation";
const LOCK: &str = "UPDATE key_version SET version = version + 1 WHERE id = 1 RETURNING version, change_id";
const INSERT: &str = "INSERT INTO signing_keys (kid, alg, generation, jwk, sealed, published_at, activates_at, \
                      prepublish, max_token_ttl) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
const DESTROY: &str = "UPDATE signing_keys SET sealed = NULL WHERE kid = $1 AND sealed IS NOT NULL";
const REVOKE: &str = "UPDATE signing_keys SET revoked_at = $2, sealed = NULL WHERE kid = $1 AND revoked_at IS NULL";
const RAISE: &str = "UPDATE signing_keys SET max_token_ttl = $2 WHERE kid = $1 AND max_token_ttl < $2";
const PURGE: &str = "DELETE FROM signing_keys WHERE kid = $1 AND sealed IS NULL AND revoked_at IS NULL";

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
pub(super) struct Row {
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

impl TryFrom<Row> for StoredKey {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
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
            let rows: Vec<Row> = sqlx::query_as(ROWS).fetch_all(pool).await?;
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

    /// Begins a change of keys: takes the lock that every such change takes, and reads the rows anew under it.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn change_keys(&self) -> Result<KeyChange, StoreError> {
        KeyChange::within(self.begin().await?).await
    }
}

pub(super) fn stored(
    version: &VersionRow,
    rows: Vec<Row>,
    verifying: Vec<verifying_keys::Row>,
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

/// A change of keys under way; nobody else changes keys until it commits. Dropped, it leaves no trace.
pub struct KeyChange {
    pub(super) tx: Tx,
    keys: Keys,
    version: i64,
}

impl KeyChange {
    pub(super) async fn within(mut tx: Tx) -> Result<Self, StoreError> {
        let before = in_tx!(&mut tx, |connection| {
            let version: VersionRow = sqlx::query_as(LOCK).fetch_one(&mut *connection).await?;
            let rows: Vec<Row> = sqlx::query_as(ROWS).fetch_all(&mut *connection).await?;
            let verifying = sqlx::query_as(verifying_keys::ROWS).fetch_all(&mut *connection).await?;
            let kept = sqlx::query_as(clock::KEPT).fetch_one(&mut *connection).await?;
            stored(&version, rows, verifying, kept)
        })?;
        Ok(Self {
            tx,
            keys: before.keys(),
            version: before.version,
        })
    }

    pub(super) fn into_tx(self) -> Tx {
        self.tx
    }

    /// The rows before this change.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The version that the commit will bring.
    #[must_use]
    pub const fn version(&self) -> i64 {
        self.version
    }

    /// Writes a generation; without a key pair it is keyless.
    ///
    /// # Errors
    /// When the database refuses, above all when the generation exists.
    pub async fn insert(&mut self, new: &NewGeneration, key: Option<&SealedKey>) -> Result<(), StoreError> {
        let kid = key.map_or_else(
            || format!("removed-{}-{}", new.alg, new.generation),
            |key| key.jwk.kid.as_str().to_owned(),
        );
        in_tx!(&mut self.tx, |connection| {
            sqlx::query(INSERT)
                .bind(kid)
                .bind(new.alg.name())
                .bind(new.generation)
                .bind(key.map(|key| key.jwk.to_json()))
                .bind(key.map(|key| key.sealed.clone()))
                .bind(new.published_at.0)
                .bind(new.activates_at.0)
                .bind(new.prepublish.0)
                .bind(new.max_token_ttl.0)
                .execute(connection)
                .await
                .map(|_| ())?;
        });
        Ok(())
    }

    /// Destroys a private half.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn destroy_private_half(&mut self, kid: &Kid) -> Result<(), StoreError> {
        in_tx!(&mut self.tx, |connection| {
            sqlx::query(DESTROY)
                .bind(kid.as_str())
                .execute(connection)
                .await
                .map(|_| ())?;
        });
        Ok(())
    }

    /// Revokes a key of either kind and destroys its private half.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke(&mut self, kid: &Kid, at: UnixTime) -> Result<(), StoreError> {
        in_tx!(&mut self.tx, |connection| {
            for statement in [REVOKE, verifying_keys::REVOKE] {
                sqlx::query(statement)
                    .bind(kid.as_str())
                    .bind(at.0)
                    .execute(&mut *connection)
                    .await
                    .map(|_| ())?;
            }
        });
        Ok(())
    }

    /// Allows a key to sign longer tokens; never shorter ones.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn raise_max_token_ttl(&mut self, kid: &Kid, to: Seconds) -> Result<(), StoreError> {
        in_tx!(&mut self.tx, |connection| {
            sqlx::query(RAISE)
                .bind(kid.as_str())
                .bind(to.0)
                .execute(connection)
                .await
                .map(|_| ())?;
        });
        Ok(())
    }

    /// Deletes a row of either kind that nothing depends on any more; one with a private half, or revoked, stays whatever is asked.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn purge(&mut self, kid: &Kid) -> Result<(), StoreError> {
        in_tx!(&mut self.tx, |connection| {
            for statement in [PURGE, verifying_keys::PURGE] {
                sqlx::query(statement)
                    .bind(kid.as_str())
                    .execute(&mut *connection)
                    .await
                    .map(|_| ())?;
            }
        });
        Ok(())
    }

    /// What is written down about time, as it is under the lock.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn clock_record(&mut self) -> Result<Record, StoreError> {
        clock::record(&mut self.tx).await
    }

    /// Confirms a step of the clock: the times of the unrevoked keys that it concerns move by its length.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn step_clock(&mut self, step: ClockStep) -> Result<(), StoreError> {
        clock::step(&mut self.tx, step).await
    }

    /// Writes to the audit log within the change; what is noted once already is left as it is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        audit::insert(&mut self.tx, entry).await
    }

    /// Makes the change true. Past `deadline` nothing is written: a row whose publication stamp is older than P allows would
    /// sign before every verifier knows it. PostgreSQL's clock decides; SQLite has none of its own, so `now` does.
    ///
    /// # Errors
    /// `LateCommit`, or when the database does not answer.
    pub async fn commit(mut self, deadline: Option<UnixTime>, now: UnixTime) -> Result<i64, StoreError> {
        if let Some(deadline) = deadline {
            // The later of both: either clock may have been set back since the stamp.
            let now = self.tx.now(now).await?.max(now);
            if now > deadline {
                return Err(StoreError::LateCommit {
                    late_by: now - deadline,
                });
            }
        }
        self.tx.commit().await?;
        Ok(self.version)
    }
}
