//! A key to verify with: another issuer's, or our own of an earlier time. It has no generation and never signs.

use crate::clock::UnixTime;
use crate::jose::jwk::PublicJwk;

use super::policy::Policy;
use super::state::State;

/// One row of `verifying_keys`. Written once; afterwards only `revoked_at` changes, from unset to set. Deleted after its end,
/// unless it is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    /// The public half, under the name that its tokens carry.
    pub jwk: PublicJwk,
    /// When the row was stamped for publication.
    pub published_at: UnixTime,
    /// The stated end: no token that it signed is valid later.
    pub expires_at: UnixTime,
    /// When it was revoked.
    pub revoked_at: Option<UnixTime>,
}

impl VerifyingKey {
    /// When it leaves the key set. A verifier whose clock is behind by S still looks for it after its stated end.
    #[must_use]
    pub fn leaves_at(&self, policy: &Policy) -> UnixTime {
        self.expires_at + policy.windows().clock_skew
    }

    /// When its row may go. A node whose clock is behind by S still publishes it when the others do not.
    #[must_use]
    pub fn purged_at(&self, policy: &Policy) -> UnixTime {
        self.leaves_at(policy) + policy.windows().clock_skew
    }

    /// What it is at this moment: retired, since it never signs here, until it is expired or revoked.
    #[must_use]
    pub fn state(&self, policy: &Policy, now: UnixTime) -> State {
        if self.revoked_at.is_some() {
            State::Revoked
        } else if self.leaves_at(policy) <= now {
            State::Expired
        } else {
            State::Retired
        }
    }
}
