//! A row that vanishes is not a revocation: its key stays published until it would have expired.

use crate::clock::UnixTime;
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
    let gone = previous.published(policy, now).filter_map(|(key, _)| {
        // It signed until now at the latest, as if something had taken over at this moment.
        let as_if_superseded = now + policy.verify_window(key.max_token_ttl);
        let until = previous.expires_at(key, policy).unwrap_or(as_if_superseded);
        let jwk = key.jwk.clone()?;
        (until > purged).then_some(Vanished { jwk, until })
    });
    before
        .iter()
        .cloned()
        .chain(gone)
        .filter(|vanished| keys.find(&vanished.jwk.kid).is_none() && vanished.until > now)
        .collect()
}
