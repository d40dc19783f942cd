//! A key that must not be trusted any more: what one transaction does about it.

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, PublicJwk};

use super::SigningKey;
use super::lifecycle::Keys;
use super::plan::{NewGeneration, new_generation, prepublish_in_force};
use super::policy::Policy;
use super::state::State;

/// Everything that the transaction of a revocation does, for one algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The line that it is about.
    pub alg: Algorithm,
    /// The rows of either kind to revoke, their private halves destroyed.
    pub revoke: Vec<Kid>,
    /// Superseded keys whose private halves lay in the same store: destroyed, while they stay published.
    pub destroy: Vec<Kid>,
    /// The removal of the algorithm that was announced: it is called off, because its last key is replaced.
    pub ends_removal: Option<Kid>,
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

/// Decides what revoking this key takes. Revocation is of key material: every row that holds it goes, whatever its kid, and
/// the key is named by any of its kids or by its thumbprint. Repeated, it reports what was done.
///
/// # Errors
/// When no row has this kid.
pub fn revoke(keys: &Keys, policy: &Policy, kid: &Kid, now: UnixTime) -> Result<Response, UnknownKey> {
    let jwk = find_material(keys, kid).ok_or_else(|| UnknownKey(kid.clone()))?;
    let unrevoked: Vec<Kid> = keys
        .aliases(jwk)
        .filter(|(_, revoked_at)| revoked_at.is_none())
        .map(|(alias, _)| alias.kid.clone())
        .collect();
    if unrevoked.is_empty() {
        return Ok(Response::AlreadyRevoked {
            signs_now: keys.active(jwk.alg, now).map(|active| active.kid.clone()),
        });
    }
    let signing = unrevoked
        .iter()
        .filter_map(|alias| keys.find(alias))
        .find(|key| must_be_replaced(keys, policy, key, now));
    let mut revocation = match signing {
        Some(key) => replace_line(keys, policy, key, now),
        // Verifiers know a pending key already, and a retired one still: both are only taken out.
        None => Revocation {
            alg: jwk.alg,
            revoke: Vec::new(),
            destroy: Vec::new(),
            ends_removal: None,
            replacement: None,
        },
    };
    // The kid that was asked for comes first.
    let asked = unrevoked.iter().filter(|alias| **alias == jwk.kid);
    let all = asked.chain(&revocation.revoke).chain(&unrevoked);
    revocation.revoke = with_aliases(keys, &all.cloned().collect::<Vec<_>>());
    Ok(Response::Revoke(revocation))
}

/// The key that this kid names, else the one that has this thumbprint.
#[must_use]
pub fn find_material<'a>(keys: &'a Keys, kid: &Kid) -> Option<&'a PublicJwk> {
    let named = keys.jwks().find(|(jwk, _)| jwk.kid == *kid);
    let found = named.or_else(|| keys.jwks().find(|(jwk, _)| jwk.thumbprint() == *kid));
    found.map(|(jwk, _)| jwk)
}

/// These kids and every other unrevoked kid of the same key material, each once.
fn with_aliases(keys: &Keys, kids: &[Kid]) -> Vec<Kid> {
    let jwks: Vec<&PublicJwk> = kids.iter().filter_map(|kid| find_material(keys, kid)).collect();
    let aliases = jwks.into_iter().flat_map(|jwk| keys.aliases(jwk));
    let unrevoked = aliases.filter(|(_, revoked_at)| revoked_at.is_none());
    let mut all: Vec<Kid> = Vec::new();
    for kid in kids.iter().chain(unrevoked.map(|(jwk, _)| &jwk.kid)) {
        if !all.contains(kid) {
            all.push(kid.clone());
        }
    }
    all
}

/// Whether a replacement must sign in the moment in which this key is revoked.
fn must_be_replaced(keys: &Keys, policy: &Policy, key: &SigningKey, now: UnixTime) -> bool {
    match keys.state(key, policy, now) {
        State::Active => true,
        // Nodes with slower clocks sign with it yet. Without it they would go back to its predecessor, whose end is set.
        State::Retired => signs_on_slow_clocks(keys, policy, key, now),
        State::Pending | State::Expired | State::Revoked => false,
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
        ends_removal: keys.removal(signing.alg).map(|removal| removal.kid.clone()),
        replacement: Some(new_generation(keys, policy, signing.alg, now, activates_at, prepublish)),
    }
}

/// What ends the restore of a backup, per algorithm that was not removed: a new key signs at once, nobody may sign with a private half
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
            let replaced = policy.algorithms().contains(&alg) || keys.has_line(alg);
            let revoke: Vec<Kid> = revoke.into_iter().map(|key| key.kid.clone()).collect();
            Revocation {
                alg,
                revoke: with_aliases(keys, &revoke),
                destroy: others.into_iter().map(|key| key.kid.clone()).collect(),
                ends_removal: None,
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
