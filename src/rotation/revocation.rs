//! The emergency: a key that must not be trusted any more, taken out in one transaction.

use std::collections::BTreeSet;

use crate::clock::UnixTime;
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, PublicJwk};
use crate::keys::emergency::{self, Response, Revocation, UnknownKey};
use crate::keys::lifecycle::Keys;
use crate::store::StoreError;
use crate::store::signing_keys::SealedKey;

use super::SCHEDULE;
use super::error::RotationError;
use super::removal::about_removal;
use super::rotator::{Rotator, insert, once};
use super::sealing::UnlistedMasterKey;

/// How often a change is tried when other writers are faster.
const ATTEMPTS: usize = 20;

/// What a revocation did, for the person who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The algorithm.
    pub alg: Algorithm,
    /// The kids that are revoked, those of keys to verify with among them; none when it had been done before.
    pub revoked: Vec<Kid>,
    /// The thumbprints of the key material that is revoked, by this or before: what belongs in the ledger.
    pub materials: Vec<Kid>,
    /// Whether a removal of the algorithm that was announced is called off.
    pub ends_removal: bool,
    /// The key that signs from now on.
    pub signs_now: Option<Kid>,
    /// Why no replacement was sealed, although the key that signed is revoked. A running server makes one, as its schedule does for every
    /// algorithm without a key.
    pub unreplaced: Option<UnlistedMasterKey>,
    /// Whether it signed before, too: none of the revoked keys did.
    pub signed_before: bool,
    /// When it was done, by the clock of the world: never earlier than it was.
    pub at: UnixTime,
    /// The version of the keys that a node must serve to have followed.
    pub version: i64,
}

/// The thumbprints of these keys, each once.
fn thumbprints(keys: &Keys, kids: &[Kid]) -> Vec<Kid> {
    let jwks = kids.iter().filter_map(|kid| emergency::find_material(keys, kid));
    let unique: BTreeSet<Kid> = jwks.map(PublicJwk::thumbprint).collect();
    unique.into_iter().collect()
}

/// The event of the audit log that tells that a node wrote a lost revocation again.
const WRITTEN_AGAIN: Event = Event::KeyRevocationRestored;

impl Rotator {
    /// Writes a revocation again that the database has lost: this node's ledger names the key material, or another row of it is
    /// revoked. The same emergency as the one that was lost; answers with the kids that it revoked.
    ///
    /// # Errors
    /// When the database is not in order.
    pub(super) async fn revoke_again(&self, distrusted: &[Kid]) -> Result<Vec<Kid>, RotationError> {
        let reason = "it was revoked before, and the database had lost that";
        let mut written = Vec::new();
        for kid in distrusted {
            let revoked = match self.revoke(kid, SCHEDULE, reason).await {
                Ok(revoked) => revoked,
                // It was purged meanwhile.
                Err(RotationError::UnknownKey(_)) => continue,
                Err(error) => return Err(error),
            };
            for kid in &revoked.revoked {
                let entry = Entry::new(WRITTEN_AGAIN, kid.as_str(), revoked.at, SCHEDULE, reason);
                self.db.note(&entry).await?;
                tracing::error!(key.kid = %kid, "a revocation that the database had lost is written again");
            }
            written.extend(revoked.revoked);
        }
        Ok(written)
    }

    /// The emergency: takes a key out of trust in one transaction, and another one signs at once. Repeated, it reports
    /// what stands.
    ///
    /// # Errors
    /// When there is no such key, or the database is not in order.
    pub async fn revoke(&self, kid: &Kid, actor: &str, reason: &str) -> Result<Revoked, RotationError> {
        let mut made: Option<(Algorithm, SealedKey)> = None;
        for _ in 0..ATTEMPTS {
            match self.try_revoke(kid, actor, reason, &mut made).await {
                Err(RotationError::Store(StoreError::Conflict)) => {}
                answer => return answer,
            }
        }
        Err(StoreError::Conflict.into())
    }

    async fn try_revoke(
        &self,
        kid: &Kid,
        actor: &str,
        reason: &str,
        made: &mut Option<(Algorithm, SealedKey)>,
    ) -> Result<Revoked, RotationError> {
        // An emergency goes by the time that keys go by, whatever is in doubt.
        let before = self.db.signing_keys().await?;
        let trusted = self.look().await?;
        let now = trusted.reached();
        let foreseen = emergency::revoke(&before.keys(), &self.policy, kid, now)?;
        let mut unreplaced = None;
        if let (
            Response::Revoke(Revocation {
                alg,
                replacement: Some(_),
                ..
            }),
            None,
        ) = (&foreseen, &made)
        {
            match self.sealing_key(&trusted).await {
                Ok(sealing) => *made = Some((*alg, self.make(*alg, sealing).await?)),
                // The key that leaked goes all the same.
                Err(RotationError::UnlistedMasterKey(unlisted)) => unreplaced = Some(unlisted),
                Err(error) => return Err(error),
            }
        }
        let mut change = self.db.change_keys().await?;
        let trusted = self.look_again(&trusted).await?;
        let now = trusted.reached();
        let revocation = match emergency::revoke(change.keys(), &self.policy, kid, now)? {
            Response::AlreadyRevoked { signs_now } => {
                let keys = change.keys();
                let jwk = emergency::find_material(keys, kid).ok_or_else(|| UnknownKey(kid.clone()))?;
                let aliases = keys.aliases(jwk);
                let stored: Vec<(Kid, UnixTime)> = aliases
                    .filter_map(|(alias, revoked_at)| Some((alias.kid.clone(), revoked_at?)))
                    .collect();
                let answer = Revoked {
                    alg: jwk.alg,
                    revoked: Vec::new(),
                    materials: vec![jwk.thumbprint()],
                    ends_removal: false,
                    signs_now,
                    unreplaced: None,
                    signed_before: true,
                    at: now,
                    // What stands under the lock; another node may have revoked it since the first look.
                    version: change.version() - 1,
                };
                drop(change);
                let times = self.db.revocations().await?;
                let at = stored.iter().map(|(kid, stored)| times.of(kid, *stored)).max();
                return Ok(Revoked {
                    at: at.unwrap_or(now),
                    ..answer
                });
            }
            Response::Revoke(revocation) => revocation,
        };
        let at = trusted.latest();
        let materials = thumbprints(change.keys(), &revocation.revoke);
        let signs_before = change.keys().active(revocation.alg, now).map(|key| key.kid.clone());
        for kid in &revocation.revoke {
            change.revoke(kid, now).await?;
            change
                .note(&once(Event::KeyRevoked, kid, at, at, actor, reason))
                .await?;
            if change.keys().find(kid).is_none() {
                continue;
            }
            change
                .note(&once(Event::KeyDestroyed, kid, at, at, actor, reason))
                .await?;
        }
        for kid in &revocation.destroy {
            change.destroy_private_half(kid).await?;
            change
                .note(&once(Event::KeyDestroyed, kid, at, at, actor, reason))
                .await?;
        }
        if let Some(removal) = &revocation.ends_removal {
            change.purge(removal).await?;
            let reason = "an emergency replaced its last key";
            change
                .note(&about_removal(Event::AlgorithmKept, revocation.alg, at, actor, reason))
                .await?;
        }
        let signed_before = revocation.replacement.is_none();
        let signs_now = match &revocation.replacement {
            None => signs_before,
            Some(_) if unreplaced.is_some() => None,
            Some(new) => {
                // The line changed between the two looks: begin again, with a key pair of the right kind.
                let (alg, key) = made.as_ref().ok_or(StoreError::Conflict)?;
                if *alg != new.alg {
                    return Err(StoreError::Conflict.into());
                }
                insert(&mut change, new, key, at, actor, reason).await?;
                Some(key.jwk.kid.clone())
            }
        };
        let version = change.commit(None, now).await?;
        Ok(Revoked {
            alg: revocation.alg,
            revoked: revocation.revoke,
            materials,
            ends_removal: revocation.ends_removal.is_some(),
            signs_now,
            unreplaced,
            signed_before,
            at,
            version,
        })
    }
}
