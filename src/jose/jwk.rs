//! Public keys as JSON (RFC 7517), and the thumbprint that names them (RFC 7638).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::alg::Algorithm;

/// A key's name, `kid` (RFC 7517 section 4.5): 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kid(String);

/// The text cannot be a `kid`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a kid is 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")]
pub struct InvalidKid;

impl Kid {
    /// The kid as it stands in a token's header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Kid {
    type Err = InvalidKid;

    fn from_str(text: &str) -> Result<Self, InvalidKid> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKid)
        }
    }
}

impl TryFrom<String> for Kid {
    type Error = InvalidKid;

    fn try_from(text: String) -> Result<Self, InvalidKid> {
        text.parse()
    }
}

impl From<Kid> for String {
    fn from(kid: Kid) -> Self {
        kid.0
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A public signature key (RFC 7517 section 4; RFC 7518 sections 6.2.1 and 6.3.1), with the name it is published under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicJwk {
    /// Its name in the set.
    pub kid: Kid,
    /// The only algorithm it is for (RFC 8725 section 3.1).
    pub alg: Algorithm,
    /// The members that are the key.
    pub parameters: Parameters,
}

/// The members that make up the key, base64url without padding, no leading zero octet in `n` and `e`, `x` and `y` of
/// 32 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// An RSA public key (RFC 7518 section 6.3.1).
    Rsa {
        /// The modulus.
        n: String,
        /// The exponent.
        e: String,
    },
    /// A point on P-256 (RFC 7518 section 6.2.1).
    P256 {
        /// The first coordinate.
        x: String,
        /// The second coordinate.
        y: String,
    },
}

impl PublicJwk {
    /// The JSON object that is served, its members always in the same order: `kty`, `use`, `alg`, `kid`, then the key.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Written by hand because the bytes are hashed into the ETag; every value is free of characters that JSON escapes.
        let (alg, kid) = (self.alg, &self.kid);
        match &self.parameters {
            Parameters::Rsa { n, e } => {
                format!(r#"{{"kty":"RSA","use":"sig","alg":"{alg}","kid":"{kid}","n":"{n}","e":"{e}"}}"#)
            }
            Parameters::P256 { x, y } => {
                format!(r#"{{"kty":"EC","use":"sig","alg":"{alg}","kid":"{kid}","crv":"P-256","x":"{x}","y":"{y}"}}"#)
            }
        }
    }
}
