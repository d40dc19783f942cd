//! Keyround: an identity server whose signing keys rotate themselves.

pub mod clock;
pub mod config;
pub mod jose;
pub mod keys;
