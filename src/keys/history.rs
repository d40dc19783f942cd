//! A key's life as it is told to people, revoked ones included.

use crate::clock::UnixTime;

use super::SigningKey;
use super::lifecycle::Keys;
use super::policy::Policy;

/// When a key gives way, or gave way, to its successor.
///
/// A revocation ends a life, and what would have come after it does not come. The replacement that it brought is no
/// successor either, though it is stamped active since a moment before.
#[must_use]
pub fn retires_at(keys: &Keys, key: &SigningKey) -> Option<UnixTime> {
    let Some(revoked_at) = key.revoked_at else {
        return keys.superseded_at(key);
    };
    keys.line(key.alg)
        .iter()
        .filter(|later| later.generation > key.generation && !later.was_revoked_before_activation())
        .filter(|later| later.published_at < revoked_at)
        .map(|later| later.activates_at)
        .filter(|&at| at <= revoked_at && !key.was_revoked_before_activation())
        .min()
}

/// The keys that may have signed between two times by the clock of the keys, and are not revoked: those that were active then.
pub fn signed_between(keys: &Keys, from: UnixTime, to: UnixTime) -> impl Iterator<Item = &SigningKey> {
    keys.iter().filter(move |key| {
        let is_signer = !key.is_keyless() && key.revoked_at.is_none();
        is_signer && key.activates_at <= to && keys.superseded_at(key).is_none_or(|superseded_at| superseded_at > from)
    })
}

/// When a key leaves the set because of its age; none when a revocation took it out before.
#[must_use]
pub fn expires_at(keys: &Keys, policy: &Policy, key: &SigningKey) -> Option<UnixTime> {
    retires_at(keys, key)
        .map(|retires_at| retires_at + policy.verify_window(key.max_token_ttl))
        .filter(|&at| key.revoked_at.is_none_or(|revoked_at| at <= revoked_at))
}
