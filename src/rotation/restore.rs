//! The restore of a backup, which ends in an emergency rotation: all of it is one transaction.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::UnixTime;
use crate::crypto::sealing::{MasterKeys, SealError};
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, PublicJwk};
use crate::keyring::{Ledger, secret_binding};
use crate::keys::emergency;
use crate::keys::lifecycle::Keys;
use crate::store::StoreError;
use crate::store::backup::{self, RestoreError};
use crate::store::dump::Dump;

use super::error::RotationError;
use super::rotator::{Rotator, insert, once};

/// Why a backup was not restored. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CannotRestore {
    /// The backup or the database.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The new keys.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Clients could not use their secrets.
    #[error("the backup's secret '{name}' does not open: {source}; list the master key that it was made with")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        source: SealError,
    },
}

impl From<StoreError> for CannotRestore {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many rows each table got.
    pub rows: BTreeMap<String, usize>,
    /// The keys that sign from now on.
    pub signs_now: Vec<Kid>,
    /// The pending keys, and those that the ledger names.
    pub revoked: Vec<Kid>,
    /// When it was done.
    pub at: UnixTime,
}

impl Rotator {
    /// Restores a backup into an empty database. Its keys verify on, but none of them signs: new ones do at once.
    ///
    /// # Errors
    /// When the backup does not fit, its secrets do not open, or the database is not empty or not in order.
    pub async fn restore(&self, dump: &Dump, actor: &str) -> Result<Restored, CannotRestore> {
        check_secrets(dump, &self.master_key)?;
        let lines: BTreeSet<&str> = dump.table("signing_keys").filter_map(|row| row.text("alg")).collect();
        let mut made = BTreeMap::new();
        for alg in Algorithm::ALL {
            if lines.contains(alg.name()) {
                made.insert(alg, self.make(alg, self.master_key.sealing_id()).await?);
            }
        }
        // An emergency goes by the database's clock even when this machine's is wrong.
        let now = self.now().await?;
        let mut change = self.db.begin_restore(dump, now).await?;
        let reason = "restored from a backup";
        let mut revoked = Vec::new();
        let keys = with_every_revocation(change.keys(), self.ledger.as_deref(), now, &mut revoked);
        let renewals = emergency::renew(&keys, &self.policy, now);
        revoked.extend(renewals.iter().flat_map(|renewal| renewal.revoke.iter().cloned()));
        for kid in &revoked {
            change.revoke(kid, now).await?;
            change
                .note(&once(Event::KeyRevoked, kid, now, now, actor, reason))
                .await?;
        }
        for row in dump.table("signing_keys").filter(|row| row.text("sealed").is_some()) {
            if let Some(kid) = row.text("kid").and_then(|kid| kid.parse().ok()) {
                change
                    .note(&once(Event::KeyDestroyed, &kid, now, now, actor, reason))
                    .await?;
            }
        }
        let mut signs_now = Vec::new();
        for new in renewals.iter().filter_map(|renewal| renewal.replacement.as_ref()) {
            let key = made.get(&new.alg).ok_or(StoreError::Conflict)?;
            insert(&mut change, new, key, now, actor, reason).await?;
            signs_now.push(key.jwk.kid.clone());
        }
        change.note(&note(dump, now, actor)).await?;
        change.commit(None, now).await?;
        let mut rows = BTreeMap::new();
        let left_out = dump.left_out();
        for row in dump
            .rows
            .iter()
            .filter(|row| !left_out.contains_key(row.table.as_str()))
        {
            *rows.entry(row.table.clone()).or_default() += 1;
        }
        Ok(Restored {
            rows,
            signs_now,
            revoked,
            at: now,
        })
    }
}

/// Tries whether a backup can be restored with these master keys, without a change to any database.
///
/// # Errors
/// Why it cannot.
pub async fn try_restore(dump: &Dump, master_keys: &MasterKeys) -> Result<(), CannotRestore> {
    check_secrets(dump, master_keys)?;
    Ok(backup::try_restore(dump).await?)
}

fn check_secrets(dump: &Dump, master_keys: &MasterKeys) -> Result<(), CannotRestore> {
    for row in dump.table("secrets") {
        let (Some(name), Some(sealed)) = (row.text("name"), row.text("sealed")) else {
            continue;
        };
        if let Err(source) = master_keys.open(&secret_binding(name), sealed) {
            let name = name.to_owned();
            return Err(CannotRestore::Secret { name, source });
        }
    }
    Ok(())
}

/// The rows with what the ledger knows of them, and with every kid of revoked key material revoked; `revoked` gets the kids
/// that the rows did not know of.
fn with_every_revocation(keys: &Keys, ledger: Option<&Ledger>, now: UnixTime, revoked: &mut Vec<Kid>) -> Keys {
    let lost = |jwk: &PublicJwk| keys.revokes(jwk) || ledger.is_some_and(|ledger| ledger.names(jwk));
    let mut rows: Vec<_> = keys.iter().cloned().collect();
    let mut verifying = keys.verifying().to_vec();
    let signing = rows.iter_mut().map(|key| (key.jwk.as_ref(), &mut key.revoked_at));
    let others = verifying.iter_mut().map(|key| (Some(&key.jwk), &mut key.revoked_at));
    for (jwk, revoked_at) in signing.chain(others) {
        if let Some(jwk) = jwk.filter(|jwk| revoked_at.is_none() && lost(jwk)) {
            *revoked_at = Some(now);
            revoked.push(jwk.kid.clone());
        }
    }
    Keys::new(rows).with_verifying(verifying).with_kept(keys.kept())
}

fn note(dump: &Dump, now: UnixTime, actor: &str) -> Entry {
    Entry::new(
        Event::DatabaseRestored,
        "database",
        now,
        actor,
        format!("from the backup of {}", dump.taken_at),
    )
}
