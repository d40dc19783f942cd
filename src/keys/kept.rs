//! Keys that stay in the set longer than their own times say, because the time that keys go by has leapt.
//!
//! A node in doubt signs by the time that it reached, and that may lie behind what other nodes are sure of. When the doubt ends, its
//! last tokens are new although their key is old. They are valid for a full window from that moment, whatever the key's row says.

use crate::clock::{Seconds, UnixTime};

use super::policy::Policy;

/// Keys that were superseded after `from` are kept as if they had been superseded at `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// A key that was superseded at this time or earlier has signed nothing since.
    pub from: UnixTime,
    /// When the time of the keys leapt, by a clock that is not in doubt.
    pub at: UnixTime,
}

impl Kept {
    /// How long a key stays that signed tokens of up to `max_token_ttl`, if it was superseded at this time.
    pub(super) fn expires_at(
        self,
        superseded_at: UnixTime,
        max_token_ttl: Seconds,
        policy: &Policy,
    ) -> Option<UnixTime> {
        // The window has room for the clocks of the signer and of the node that drops the key. `at` was read from a third clock.
        let end = self.at + policy.verify_window(max_token_ttl) + policy.windows().clock_skew;
        (superseded_at > self.from).then_some(end)
    }
}
