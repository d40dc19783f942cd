//! The signature algorithms (RFC 7518 section 3.1): one row of the table each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text;

/// An algorithm that Keyround signs with. The order is the order of the key set: RSA first, for libraries that stop at
/// the first key type they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA with P-256 and SHA-256 (RFC 7518 section 3.4).
    #[serde(rename = "ES256")]
    Es256,
}

/// The name is not of an algorithm that Keyround signs with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a signature algorithm of Keyround; use RS256 or ES256{hint}", hint = hint(.0))]
pub struct UnknownAlgorithm(pub String);

impl UnknownAlgorithm {
    /// What was meant, or why there is no such algorithm.
    #[must_use]
    pub fn hint(&self) -> String {
        hint(&self.0)
    }
}

/// A symmetric algorithm is no misspelling of one that has key pairs.
fn hint(name: &str) -> String {
    let symmetric = ["HS256", "HS384", "HS512"];
    if symmetric.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return format!("; {name} is symmetric, so that every service that verifies tokens could sign them too");
    }
    text::did_you_mean(name, Algorithm::ALL.map(Algorithm::name))
}

impl Algorithm {
    /// Every algorithm, in the key set's order.
    pub const ALL: [Self; 2] = [Self::Rs256, Self::Es256];

    /// The value of `alg` (RFC 7515 section 4.1.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}
