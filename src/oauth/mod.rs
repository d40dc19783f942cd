//! The protocol's rules (RFC 6749, 6750, 7636, 8414, 8707, 9068, 9207): what is asked, what may be given, how a refusal reads.

pub mod assertion;
pub mod authorization;
pub mod claims;
pub mod client;
pub mod client_keys;
pub mod credentials;
pub mod endpoints;
pub mod error;
pub mod logout;
pub mod metadata;
pub mod pkce;
pub mod resource;
pub mod scope;
pub mod token;
pub mod verification;
