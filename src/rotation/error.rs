//! Why keys were not changed.

use crate::clock::{Seconds, UnixTime};
use crate::crypto::sealing::SealError;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::jose::key::{KeyError, SelfTestError};
use crate::keyring::LedgerError;
use crate::keys::emergency::UnknownKey;
use crate::keys::trusted_time::Doubt;
use crate::store::StoreError;

use super::sealing::UnlistedMasterKey;

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database went silent in the middle.
    #[error("the database did not answer within {0}; nothing is known of what was under way")]
    Silent(Seconds),
    /// A key pair could not be made, or its self-test failed; it was not published.
    #[error("no {alg} key pair could be made: {reason}")]
    Generation {
        /// Its algorithm.
        alg: Algorithm,
        /// What went wrong.
        reason: GenerationError,
    },
    /// A secret could not be sealed.
    #[error("the secret could not be sealed: {0}")]
    Secret(#[from] SealError),
    /// Running servers could not open what would be sealed.
    #[error("nothing was changed: {0}")]
    UnlistedMasterKey(#[from] UnlistedMasterKey),
    /// The clock may be wrong.
    #[error("the clock is in doubt, so no key was changed: {0}")]
    ClockInDoubt(Doubt),
    /// There is nothing to confirm.
    #[error("the clock is not in doubt, so there is nothing to confirm")]
    ClockNotInDoubt,
    /// One more key would make the set too large for real caches.
    #[error(
        "one more {0} key does not fit into keys.max_published or keys.max_set_bytes; wait until a retired key expires \
         ('keyround keys plan' says when), revoke a pending key that is not needed ('keyround keys list' names them), or raise the limit"
    )]
    SetFull(Algorithm),
    /// Each rotation adds a key that waits for its time, and the earlier ones do it no sooner.
    #[error(
        "{waiting} {alg} keys are published and wait to sign, as many as may; one more would sign no sooner and only fill the set. The next \
         signs from {next}: wait for it, or revoke one that is not needed ('keyround keys list' names them)"
    )]
    Waiting {
        /// The algorithm.
        alg: Algorithm,
        /// How many there are.
        waiting: usize,
        /// When the first of them signs.
        next: UnixTime,
    },
    /// The algorithm is not enabled.
    #[error("{0} is not among keys.algorithms and has no key; add it there to enable it")]
    NotEnabled(Algorithm),
    /// The algorithm was removed.
    #[error(
        "{alg} was removed, with effect from {at}; while its last key is published, 'keyround keys keep-algorithm {alg}' takes \
         that back, and otherwise a new key signs once it was published for keys.prepublish"
    )]
    Removed {
        /// The algorithm.
        alg: Algorithm,
        /// From when on it has no key that signs.
        at: UnixTime,
    },
    /// There is nothing to rotate before the first start.
    #[error("there are no keys yet; the first 'keyround serve' makes them")]
    NoKeys,
    /// No such key.
    #[error(transparent)]
    UnknownKey(#[from] UnknownKey),
    /// A kid names one key for ever.
    #[error(
        "the kid '{kid}' {use_of_it}; a kid names one key for ever, so import another key or keep the one that is here"
    )]
    KidTaken {
        /// The kid.
        kid: Kid,
        /// How it is or was used.
        use_of_it: &'static str,
    },
    /// Its material was revoked under some name.
    #[error(
        "this is the revoked key {thumbprint}, by its RFC 7638 thumbprint; a revoked key is not taken in again under any kid, \
         so import another one"
    )]
    MaterialRevoked {
        /// The thumbprint of the key.
        thumbprint: Kid,
    },
    /// Whether the key was revoked is not known.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The stated end has passed.
    #[error("the stated end {0} is not in the future; a key to verify with must have one that is")]
    EndPassed(UnixTime),
}

/// Why a key pair was not made.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// OpenSSL refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The two implementations disagree.
    #[error("the self-test failed: {0}")]
    SelfTest(#[from] SelfTestError),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The thread that made it ended early.
    #[error("the thread that made it ended early")]
    Interrupted,
}
