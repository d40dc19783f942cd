//! Changes of keys: one at a time, under the lock of `key_version`.

use crate::clock::{Seconds, UnixTime};
use crate::events::Entry;
use crate::jose::jwk::Kid;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::NewGeneration;
use crate::keys::trusted_time::{ClockRecord, ClockStep};
use crate::keys::verifying::VerifyingKey;

use super::signing_keys::{ROWS, SealedKey, SigningKeyRow, VersionRow, stored};
use super::{Db, StoreError, Tx, audit, clock, in_tx, verifying_keys};

const LOCK: &str = "UPDATE key_version SET version = version + 1 WHERE id = 1 RETURNING version, change_id";
const INSERT: &str = "INSERT INTO signing_keys (kid, alg, generation, jwk, sealed, published_at, activates_at, \
                      prepublish, max_token_ttl) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
const DESTROY: &str = "UPDATE signing_keys SET sealed = NULL WHERE kid = $1 AND sealed IS NOT NULL";
const REVOKE: &str = "UPDATE signing_keys SET revoked_at = $2, sealed = NULL WHERE kid = $1 AND revoked_at IS NULL";
const RAISE: &str = "UPDATE signing_keys SET max_token_ttl = $2 WHERE kid = $1 AND max_token_ttl < $2";
const PURGE: &str = "DELETE FROM signing_keys WHERE kid = $1 AND sealed IS NULL AND revoked_at IS NULL";
const REVOKE_VERIFYING: &str = "UPDATE verifying_keys SET revoked_at = $2 WHERE kid = $1 AND revoked_at IS NULL";
const PURGE_VERIFYING: &str = "DELETE FROM verifying_keys WHERE kid = $1 AND revoked_at IS NULL";
const INSERT_VERIFYING: &str =
    "INSERT INTO verifying_keys (kid, alg, jwk, published_at, expires_at) VALUES ($1, $2, $3, $4, $5)";
const EVER_USED: &str = "SELECT count(*) FROM audit WHERE subject = $1 AND once IN ('key.created', 'key.published')";

impl Db {
    /// Begins a change of keys: takes the lock that every such change takes, and reads the rows anew under it.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn change_keys(&self) -> Result<KeyChange, StoreError> {
        KeyChange::within(self.begin().await?).await
    }
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
            let rows: Vec<SigningKeyRow> = sqlx::query_as(ROWS).fetch_all(&mut *connection).await?;
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

    /// Writes a key to verify with.
    ///
    /// # Errors
    /// When the database refuses, above all when the kid exists.
    pub async fn insert_verifying(&mut self, key: &VerifyingKey) -> Result<(), StoreError> {
        in_tx!(&mut self.tx, |connection| {
            sqlx::query(INSERT_VERIFYING)
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
            for statement in [REVOKE, REVOKE_VERIFYING] {
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
            for statement in [PURGE, PURGE_VERIFYING] {
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
    pub async fn clock_record(&mut self) -> Result<ClockRecord, StoreError> {
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
