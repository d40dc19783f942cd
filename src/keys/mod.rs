//! The core: the life of a signing key, as pure functions of (keys, policy, now).
//!
//! A row is written once; its state is never stored but follows from its times, so every node with the same rows and a
//! sane clock agrees without talking, and no crash or pause misses a transition.

pub mod emergency;
pub mod history;
pub mod kept;
pub mod keyset;
pub mod lifecycle;
pub mod plan;
pub mod policy;
pub mod state;
pub mod trusted_time;
pub mod verifying;

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, PublicJwk};

/// One row of `signing_keys`: a generation of an algorithm, without its private half.
///
/// Written once. Afterwards only three fields change, each in one direction: `revoked_at` (unset, then set),
/// `has_private_half` (present, then destroyed) and `max_token_ttl` (grows).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// Its name, never used twice.
    pub kid: Kid,
    /// The only algorithm it signs with.
    pub alg: Algorithm,
    /// Its place in the line of its algorithm; unique there, rising.
    pub generation: i64,
    /// The public half; none marks the generation that removes an algorithm ("keyless").
    pub jwk: Option<PublicJwk>,
    /// When the row was stamped for publication.
    pub published_at: UnixTime,
    /// When it begins to sign.
    pub activates_at: UnixTime,
    /// The lead time in force when the row was inserted.
    pub prepublish: Seconds,
    /// The longest lifetime of any token it signs.
    pub max_token_ttl: Seconds,
    /// When it was revoked.
    pub revoked_at: Option<UnixTime>,
    /// Whether the private half still exists.
    pub has_private_half: bool,
}

impl SigningKey {
    /// Whether this generation only marks that its algorithm was removed.
    #[must_use]
    pub const fn is_keyless(&self) -> bool {
        self.jwk.is_none()
    }

    /// Whether it was published ahead of its first signature; the keys of a first start and of an emergency were not.
    #[must_use]
    pub fn was_prepublished(&self) -> bool {
        self.activates_at > self.published_at
    }

    /// Revoked before its time came: it never signed and supersedes nothing.
    #[must_use]
    pub fn was_revoked_before_activation(&self) -> bool {
        self.revoked_at.is_some_and(|revoked_at| revoked_at < self.activates_at)
    }
}
