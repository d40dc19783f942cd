//! The emergency: a key that must not be trusted any more, taken out in one transaction.

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keys::emergency::{self, Response, Revocation, UnknownKey};
use crate::store::StoreError;
use crate::store::signing_keys::SealedKey;

use super::rotator::{RotationError, Rotator, insert, once};

/// How often a change is tried when other writers are faster.
const ATTEMPTS: usize = 20;

/// What a revocation did, for the person who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The algorithm.
    pub alg: Algorithm,
    /// The kids that are revoked; none when it had been done before.
    pub revoked: Vec<Kid>,
    /// The key that signs from now on.
    pub signs_now: Option<Kid>,
    /// When it was done.
    pub at: UnixTime,
    /// The version of the keys that a node must serve to have followed.
    pub version: i64,
}

impl Rotator {
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
        // An emergency goes by the database's clock even when this machine's is wrong.
        let before = self.db.signing_keys().await?;
        let now = self.now().await?;
        let foreseen = emergency::revoke(&before.keys(), &self.policy, kid, now)?;
        if let (
            Response::Revoke(Revocation {
                alg,
                replacement: Some(_),
                ..
            }),
            None,
        ) = (&foreseen, &made)
        {
            *made = Some((*alg, self.make(*alg).await?));
        }
        let mut change = self.db.change_keys().await?;
        let now = self.now().await?;
        let revocation = match emergency::revoke(change.keys(), &self.policy, kid, now)? {
            Response::AlreadyRevoked { signs_now } => {
                let keys = change.keys();
                let alg = keys
                    .find(kid)
                    .map(|key| key.alg)
                    .or_else(|| keys.find_verifying(kid).map(|key| key.jwk.alg))
                    .ok_or_else(|| UnknownKey(kid.clone()))?;
                return Ok(Revoked {
                    alg,
                    revoked: Vec::new(),
                    signs_now,
                    at: keys.revoked_at(kid).unwrap_or(now),
                    // What stands under the lock; another node may have revoked it since the first look.
                    version: change.version() - 1,
                });
            }
            Response::Revoke(revocation) => revocation,
        };
        let signs_before = change.keys().active(revocation.alg, now).map(|key| key.kid.clone());
        for kid in &revocation.revoke {
            change.revoke(kid, now).await?;
            change.note(&once("key.revoked", kid, now, now, actor, reason)).await?;
            if change.keys().find(kid).is_none() {
                continue;
            }
            change
                .note(&once("key.destroyed", kid, now, now, actor, reason))
                .await?;
        }
        for kid in &revocation.destroy {
            change.destroy_private_half(kid).await?;
            change
                .note(&once("key.destroyed", kid, now, now, actor, reason))
                .await?;
        }
        let signs_now = match &revocation.replacement {
            None => signs_before,
            Some(new) => {
                // The line changed between the two looks: begin again, with a key pair of the right kind.
                let (alg, key) = made.as_ref().ok_or(StoreError::Conflict)?;
                if *alg != new.alg {
                    return Err(StoreError::Conflict.into());
                }
                insert(&mut change, new, key, actor, reason).await?;
                Some(key.jwk.kid.clone())
            }
        };
        let version = change.commit(None, now).await?;
        Ok(Revoked {
            alg: revocation.alg,
            revoked: revocation.revoke,
            signs_now,
            at: now,
            version,
        })
    }
}
