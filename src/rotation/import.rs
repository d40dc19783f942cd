//! Keys from elsewhere become ours: to sign with, or to verify with until a stated end.

use crate::clock::UnixTime;
use crate::events::Event;
use crate::jose::jwk::{Kid, PublicJwk};
use crate::jose::key::PrivateKey;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::{self, NewGeneration};
use crate::keys::verifying::VerifyingKey;
use crate::store::key_change::KeyChange;

use super::error::RotationError;
use super::rotator::{Rotator, insert, once, refuse_rotation, seal};

/// A key that was imported to sign with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedKey {
    /// Its thumbprint, which is its name.
    pub kid: Kid,
    /// Its place in the line.
    pub generation: NewGeneration,
}

impl Rotator {
    /// Takes in a key to sign with: it becomes the next pending generation under its thumbprint, published ahead of its
    /// first signature like any other.
    ///
    /// # Errors
    /// When its algorithm is not enabled, its kid was ever used, as many keys wait as may, the set is full, or the clock or the
    /// database is not in order.
    pub async fn import_signing(
        &self,
        key: &PrivateKey,
        actor: &str,
        reason: &str,
    ) -> Result<ImportedKey, RotationError> {
        let alg = key.algorithm();
        if !self.policy.algorithms().contains(&alg) {
            return Err(RotationError::NotEnabled(alg));
        }
        let trusted = self.look_for_change().await?;
        let sealing = self.sealing_key(&trusted).await?;
        let sealed =
            seal(key, &self.master_key, &sealing).map_err(|reason| RotationError::Generation { alg, reason })?;
        let kid = sealed.jwk.kid.clone();
        let mut change = self.db.change_keys().await?;
        let trusted = self.plausible(&trusted).await?;
        let now = trusted.reached();
        if change.keys().is_empty() {
            return Err(RotationError::NoKeys);
        }
        refuse_taken(&mut change, &kid).await?;
        self.refuse_revoked(change.keys(), &sealed.jwk)?;
        // Its private half is known where that of this name is.
        for name in sealed.jwk.material_names().iter().filter(|name| **name != kid) {
            refuse_taken(&mut change, name).await?;
        }
        refuse_rotation(change.keys(), &self.policy, alg, now)?;
        if !plan::has_room_for(change.keys(), &self.policy, sealed.jwk.to_json().len(), now) {
            return Err(RotationError::SetFull(alg));
        }
        let generation = plan::rotate_early(change.keys(), &self.policy, alg, now);
        insert(&mut change, &generation, &sealed, trusted.checked_at(), actor, reason).await?;
        let committed_at = self.clock.read().wall;
        change
            .commit(Some(self.commit_deadline(&trusted)), committed_at)
            .await?;
        Ok(ImportedKey { kid, generation })
    }

    /// Takes in a key to verify with: it stands in the key set under the name that its tokens carry, until `until` and as
    /// much longer as clocks differ, and never signs.
    ///
    /// # Errors
    /// When its end has passed, its kid was ever used, the set is full, or the clock or the database is not in order.
    pub async fn import_verifying(
        &self,
        jwk: PublicJwk,
        until: UnixTime,
        actor: &str,
        reason: &str,
    ) -> Result<VerifyingKey, RotationError> {
        let trusted = self.look_for_change().await?;
        let mut change = self.db.change_keys().await?;
        let trusted = self.plausible(&trusted).await?;
        let now = trusted.reached();
        if until <= trusted.checked_at() {
            return Err(RotationError::EndPassed(until));
        }
        refuse_taken(&mut change, &jwk.kid).await?;
        self.refuse_revoked(change.keys(), &jwk)?;
        if !plan::has_room_for_verifying(change.keys(), &self.policy, jwk.to_json().len(), now) {
            return Err(RotationError::SetFull(jwk.alg));
        }
        let key = VerifyingKey {
            jwk,
            published_at: now,
            expires_at: until,
            revoked_at: None,
        };
        change.insert_verifying(&key).await?;
        let at = trusted.checked_at();
        for event in [Event::KeyCreated, Event::KeyPublished] {
            change.note(&once(event, &key.jwk.kid, at, at, actor, reason)).await?;
        }
        change.commit(None, now).await?;
        tracing::info!(key.kid = %key.jwk.kid, key.alg = %key.jwk.alg, %until, reason, "a key to verify with is published");
        Ok(key)
    }
}

impl Rotator {
    /// Refuses key material that was revoked under any kid, by the database or by the ledger of this machine. Material that
    /// is published under another kid is taken in: keys move in that way. A revocation takes both.
    fn refuse_revoked(&self, keys: &Keys, jwk: &PublicJwk) -> Result<(), RotationError> {
        if let Some(ledger) = &self.ledger {
            ledger.require_readable()?;
        }
        let in_ledger = self.ledger.as_ref().is_some_and(|ledger| ledger.names(jwk));
        if !in_ledger && !keys.revokes(jwk) {
            return Ok(());
        }
        Err(RotationError::MaterialRevoked {
            thumbprint: jwk.thumbprint(),
        })
    }
}

/// A kid that two keys had would make verifiers check a token with the wrong one.
async fn refuse_taken(change: &mut KeyChange, kid: &Kid) -> Result<(), RotationError> {
    let keys = change.keys();
    let use_of_it = if keys.revoked_at(kid).is_some() {
        "was revoked"
    } else if keys.find(kid).is_some() {
        "is the name of a signing key"
    } else if keys.find_verifying(kid).is_some() {
        "is the name of a key to verify with"
    } else if change.was_ever_used(kid).await? {
        "was used before"
    } else {
        return Ok(());
    };
    Err(RotationError::KidTaken {
        kid: kid.clone(),
        use_of_it,
    })
}
