//! Secrets of our own: what seals, what hashes under a key, and where random values come from.

mod digest;
pub mod key_derivation;
pub mod keyed_hash;
pub mod purpose;
pub mod random;
pub mod sealing;

pub(crate) use digest::sha256;
