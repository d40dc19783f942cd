//! A row that vanishes is not a revocation: its key stays published until it would have expired.

use crate::clock::{Seconds, UnixTime};
use crate::jose::jwk::PublicJwk;
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;

/// A key whose row is gone before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vanished {
    /// Its public half.
    pub jwk: PublicJwk,
    /// Until when it stays published.
    pub until: UnixTime,
    /// The longest lifetime of the tokens that it signed here; none for a key that only verified.
    pub max_token_ttl: Option<Seconds>,
}

/// What is gone of what was there before, with what was gone already and has not come back.
pub(super) fn vanished(
    before: &[Vanished],
    previous: &Keys,
    keys: &Keys,
    policy: &Policy,
    now: UnixTime,
) -> Vec<Vanished> {
    // Another node whose clock is ahead may have purged a row that expires within S.
    let purged = now + policy.windows().clock_skew;
    let signing = previous.published(policy, now).filter_map(|(key, _)| {
        // It signed until now at the latest, as if something had taken over at this moment.
        let as_if_superseded = now + policy.verify_window(key.max_token_ttl);
        let until = previous.expires_at(key, policy).unwrap_or(as_if_superseded);
        let jwk = key.jwk.clone()?;
        Some(Vanished {
            jwk,
            until,
            max_token_ttl: Some(key.max_token_ttl),
        })
    });
    let unrevoked = previous.verifying().iter().filter(|key| key.revoked_at.is_none());
    let verifying = unrevoked.map(|key| Vanished {
        jwk: key.jwk.clone(),
        until: key.leaves_at(policy),
        max_token_ttl: None,
    });
    let gone = signing.chain(verifying).filter(|vanished| vanished.until > purged);
    before
        .iter()
        .cloned()
        .chain(gone)
        .filter(|vanished| vanished.until > now && keys.jwks().all(|(jwk, _)| jwk.kid != vanished.jwk.kid))
        .filter(|vanished| !keys.revokes(&vanished.jwk))
        .collect()
}
