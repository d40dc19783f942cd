//! A key that must not be trusted any more: what one transaction does about it.

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;

use super::SigningKey;
use super::lifecycle::{Keys, State};
use super::plan::{NewGeneration, new_generation, prepublish_in_force};
use super::policy::Policy;

/// Everything that the transaction of a revocation does, for one algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The line that it is about.
    pub alg: Algorithm,
    /// The rows to revoke, their private halves destroyed.
    pub revoke: Vec<Kid>,
    /// Superseded keys whose private halves lay in the same store: destroyed, while they stay published.
    pub destroy: Vec<Kid>,
    /// The key that signs at once instead; none when the revoked key was not the one that signs.
    pub replacement: Option<NewGeneration>,
}

/// What is to be done about a key that was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Do this.
    Revoke(Revocation),
    /// It was done before; the key that signs instead, if any.
    AlreadyRevoked {
        /// The kid of the key that signs now.
        signs_now: Option<Kid>,
    },
}

/// There is no key of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key is called '{0}'; 'keyround keys list' names them all")]
pub struct UnknownKey(pub Kid);

/// Decides what revoking this key takes. Repeated, it reports what was done.
///
/// # Errors
/// When no row has this kid.
pub fn revoke(keys: &Keys, policy: &Policy, kid: &Kid, now: UnixTime) -> Result<Response, UnknownKey> {
    if let Some(key) = keys.find_verifying(kid) {
        return Ok(match key.revoked_at {
            Some(_) => Response::AlreadyRevoked {
                signs_now: keys.active(key.jwk.alg, now).map(|active| active.kid.clone()),
            },
            None => Response::Revoke(taken_out(key.jwk.alg, kid)),
        });
    }
    let key = keys
        .find(kid)
        .filter(|key| !key.is_keyless())
        .ok_or_else(|| UnknownKey(kid.clone()))?;
    Ok(match keys.state(key, policy, now) {
        State::Revoked => Response::AlreadyRevoked {
            signs_now: keys.active(key.alg, now).map(|active| active.kid.clone()),
        },
        State::Active => Response::Revoke(replace_line(keys, policy, key, now)),
        // I1: nodes with slower clocks sign with it yet. Without it they would go back to its predecessor, whose end is set.
        State::Retired if signs_on_slow_clocks(keys, policy, key, now) => {
            Response::Revoke(replace_line(keys, policy, key, now))
        }
        // Verifiers know a pending key already, and a retired one still: both are only taken out.
        State::Pending | State::Retired | State::Expired => Response::Revoke(taken_out(key.alg, kid)),
    })
}

/// A revocation that nothing has to follow.
fn taken_out(alg: Algorithm, kid: &Kid) -> Revocation {
    Revocation {
        alg,
        revoke: vec![kid.clone()],
        destroy: Vec::new(),
        replacement: None,
    }
}

fn signs_on_slow_clocks(keys: &Keys, policy: &Policy, key: &SigningKey, now: UnixTime) -> bool {
    keys.active(key.alg, now - policy.windows().clock_skew)
        .is_some_and(|active| active.kid == key.kid)
}

/// The emergency of one algorithm's signing key: the pending keys and the superseded halves lay in the same store, so
/// none of them is trusted to sign again.
fn replace_line(keys: &Keys, policy: &Policy, signing: &SigningKey, now: UnixTime) -> Revocation {
    let unrevoked = || {
        keys.line(signing.alg)
            .iter()
            .filter(|key| key.revoked_at.is_none() && !key.is_keyless())
    };
    let revoke: Vec<&SigningKey> = unrevoked()
        .filter(|key| key.kid == signing.kid || keys.state(key, policy, now) == State::Pending)
        .collect();
    let destroy = unrevoked()
        .filter(|key| key.has_private_half && !revoke.iter().any(|revoked| revoked.kid == key.kid))
        .map(|key| key.kid.clone())
        .collect();
    let prepublish = revoke
        .iter()
        .map(|key| key.prepublish)
        .max()
        .unwrap_or(Seconds::ZERO)
        .max(prepublish_in_force(keys, policy, now));
    // Back-dated like a first start, so that every sane clock signs with it at once.
    let activates_at = now - policy.windows().clock_skew;
    Revocation {
        alg: signing.alg,
        revoke: revoke.into_iter().map(|key| key.kid.clone()).collect(),
        destroy,
        replacement: Some(new_generation(keys, policy, signing.alg, now, activates_at, prepublish)),
    }
}

/// What ends the restore of a backup, per enabled algorithm: a new key signs at once, nobody may sign with a private half
/// from the backup, and the pending keys are revoked. The others only retire, for tokens that they signed are out there.
#[must_use]
pub fn renew(keys: &Keys, policy: &Policy, now: UnixTime) -> Vec<Revocation> {
    keys.algorithms()
        .into_iter()
        .map(|alg| {
            let unrevoked = || {
                keys.line(alg)
                    .iter()
                    .filter(|key| key.revoked_at.is_none() && !key.is_keyless())
            };
            let (revoke, others): (Vec<&SigningKey>, Vec<&SigningKey>) =
                unrevoked().partition(|key| keys.state(key, policy, now) == State::Pending);
            let stored = revoke.iter().map(|key| key.prepublish).max().unwrap_or(Seconds::ZERO);
            let prepublish = stored.max(prepublish_in_force(keys, policy, now));
            let activates_at = now - policy.windows().clock_skew;
            let replaced = policy.algorithms().contains(&alg);
            Revocation {
                alg,
                revoke: revoke.into_iter().map(|key| key.kid.clone()).collect(),
                destroy: others.into_iter().map(|key| key.kid.clone()).collect(),
                replacement: replaced.then(|| new_generation(keys, policy, alg, now, activates_at, prepublish)),
            }
        })
        .collect()
}

/// Until when a verifier that cached the set before `now` may still accept a revoked key's tokens: P + C + S, told to the
/// operator. Verifiers that refetch only at an unknown `kid` keep it until they meet the replacement's.
#[must_use]
pub fn accepted_until(policy: &Policy, now: UnixTime) -> UnixTime {
    now + policy.shortest_prepublish()
}
