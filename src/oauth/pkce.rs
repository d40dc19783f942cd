//! Proof Key for Code Exchange (RFC 7636): who redeems a code must be who asked for it. Only the method `S256`; `plain` protects from nothing
//! that S256 does not (RFC 9700 section 2.1.1).

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use crate::jose::jwk::sha256_base64url;

/// The one method (RFC 7636 section 4.2).
pub const METHOD: &str = "S256";

/// The digest of a verifier (RFC 7636 section 4.2): 256 bits in base64url, 43 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeChallenge(String);

/// The text is no challenge by S256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("code_challenge is the SHA-256 of the code_verifier in base64url without padding, 43 characters")]
pub struct InvalidCodeChallenge;

/// The secret behind a challenge (RFC 7636 section 4.1): 43 to 128 unreserved characters.
pub struct CodeVerifier<'a>(&'a str);

/// The text is no verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("code_verifier is 43 to 128 letters, digits and characters of -._~")]
pub struct InvalidCodeVerifier;

impl CodeChallenge {
    /// The challenge as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CodeChallenge {
    type Err = InvalidCodeChallenge;

    fn from_str(text: &str) -> Result<Self, InvalidCodeChallenge> {
        match BASE64URL.decode(text) {
            Ok(digest) if digest.len() == 32 => Ok(Self(text.to_owned())),
            _ => Err(InvalidCodeChallenge),
        }
    }
}

impl<'a> CodeVerifier<'a> {
    /// Reads a verifier.
    ///
    /// # Errors
    /// [`InvalidCodeVerifier`].
    pub fn parse(text: &'a str) -> Result<Self, InvalidCodeVerifier> {
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if (43..=128).contains(&text.len()) && text.bytes().all(is_unreserved) {
            Ok(Self(text))
        } else {
            Err(InvalidCodeVerifier)
        }
    }

    /// The challenge that it answers.
    #[must_use]
    pub fn challenge(&self) -> CodeChallenge {
        CodeChallenge(sha256_base64url(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_holds() {
        // RFC 7636 appendix B.
        let verifier = CodeVerifier::parse("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        let challenge: CodeChallenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".parse().unwrap();
        assert_eq!(verifier.challenge(), challenge);
    }

    #[test]
    fn a_verifier_is_long_and_unreserved() {
        for good in ["a".repeat(43), "~".repeat(128), "-._~".repeat(20)] {
            assert!(CodeVerifier::parse(&good).is_ok(), "{good}");
        }
        for bad in [
            String::new(),
            "a".repeat(42),
            "a".repeat(129),
            format!("{}+", "a".repeat(43)),
            format!("{} ", "a".repeat(43)),
            "\u{e4}".repeat(43),
        ] {
            assert!(CodeVerifier::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_challenge_is_a_digest_in_base64url() {
        for bad in [
            "",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-c",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM=",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXkaaaa",
        ] {
            assert_eq!(bad.parse::<CodeChallenge>(), Err(InvalidCodeChallenge), "{bad}");
        }
    }
}
