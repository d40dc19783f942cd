//! The protocol's rules (RFC 6749, 6750, 8414, 8707, 9068): what is asked, what may be given, how a refusal reads.

pub mod assertion;
pub mod client;
pub mod client_keys;
pub mod credentials;
pub mod endpoints;
pub mod error;
pub mod metadata;
pub mod scope;
pub mod token;
pub mod verification;
