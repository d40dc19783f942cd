//! The JOSE standards: algorithms, keys, tokens, and a private key at rest. No time, no I/O, nothing of Keyround's rules.

pub mod alg;
pub mod assertion;
pub mod id_token;
pub mod import;
pub mod jwk;
pub mod jwk_set;
pub mod jws;
pub mod jwt;
pub mod key;
mod kid;
pub mod numeric_date;
mod roca;
mod rsa_contexts;
pub mod strict_json;
