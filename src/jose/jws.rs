//! The strict reading of a signed token (RFC 7515 section 5.2): one serialization, one spelling, three header members, and
//! a public key that was parsed long before the token came.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Rsa;
use serde_json::{Map, Value};

use super::alg::Algorithm;
use super::jwk::{KeyParameters, Kid, PublicJwk};
use super::key::VerifyError;
use super::rsa_contexts::RsaContexts;
use super::strict_json;
use crate::crypto::sha256;

/// The longest token that is looked at, in octets. Keyround's own are under 4 KiB.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// Why a text is no token in the one form that Keyround writes. No variant holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is too long to be looked at.
    #[error("it is longer than {LONGEST_TOKEN} octets")]
    TooLong,
    /// Not the compact serialization of a JWS.
    #[error("it must have exactly three parts, none empty, separated by dots (RFC 7515 section 7.1)")]
    Parts,
    /// Not base64url in its one canonical spelling.
    #[error("its parts must be base64url without padding and without stray bits (RFC 7515 section 2)")]
    Base64,
    /// The header is no JSON object with every name once.
    #[error("its header must be a JSON object in which every name stands once")]
    Header,
    /// The header has another member, such as `crit`, `jwk`, `jku`, `x5u` or `b64`.
    #[error("its header must have the members alg, typ and kid, and no other (RFC 8725 section 3.10)")]
    HeaderMembers,
}

/// Whether the `typ` of a token of others is one of these, written in lower case and without `application/`: media types are compared
/// without regard to case, and that prefix may be left out (RFC 7515 section 4.1.9).
#[must_use]
pub fn is_type(typ: &str, expected: &[&str]) -> bool {
    let typ = typ.to_ascii_lowercase();
    expected.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
}

/// The parts of a JWS in the compact serialization.
struct Parts<'a> {
    header: Vec<u8>,
    message: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn parse(token: &'a str) -> Result<Self, Malformed> {
        if token.len() > LONGEST_TOKEN {
            return Err(Malformed::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed::Parts);
        };
        if header.is_empty() || claims.is_empty() || signature.is_empty() {
            return Err(Malformed::Parts);
        }
        Ok(Self {
            header: decode(header)?,
            message: &token[..header.len() + 1 + claims.len()],
            claims,
            signature: decode(signature)?,
        })
    }

    /// What was signed, once the signature is found to be this key's.
    fn verified(&self, key: &SignatureKey) -> Result<Vec<u8>, NotVerified> {
        key.verify(self.message.as_bytes(), &self.signature)?;
        decode(self.claims).map_err(NotVerified::Malformed)
    }
}

/// A JWS in the compact serialization that was taken apart, whoever wrote it. Nothing is proved yet.
pub struct Compact<'a> {
    /// The header; every name in it stands once.
    pub header: Map<String, Value>,
    parts: Parts<'a>,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn parse(token: &'a str) -> Result<Self, Malformed> {
        let parts = Parts::parse(token)?;
        let header = strict_json::object(&parts.header).map_err(|_| Malformed::Header)?;
        Ok(Self { header, parts })
    }

    /// The claims, once the signature is found to be this key's.
    ///
    /// # Errors
    /// [`VerifyError`] when it is not, or [`Malformed`] when what was signed is no JSON object with every name once.
    pub fn verified(&self, key: &SignatureKey) -> Result<Map<String, Value>, NotVerified> {
        strict_json::object(&self.parts.verified(key)?).map_err(|_| NotVerified::Claims)
    }
}

/// One of our own tokens that was taken apart. Nothing is proved yet.
pub struct Unverified<'a> {
    /// What the header says the algorithm is.
    pub alg: String,
    /// What the header says the token is.
    pub typ: String,
    /// The key that the header names.
    pub kid: String,
    parts: Parts<'a>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn parse(token: &'a str) -> Result<Self, Malformed> {
        let parts = Parts::parse(token)?;
        let members = strict_json::members(&parts.header, ["alg", "typ", "kid"]).map_err(|_| Malformed::Header)?;
        match members.named {
            [
                Some(Value::String(alg)),
                Some(Value::String(typ)),
                Some(Value::String(kid)),
            ] if !members.has_others => Ok(Self { alg, typ, kid, parts }),
            _ => Err(Malformed::HeaderMembers),
        }
    }

    /// The claims of these names, once the signature is found to be this key's.
    ///
    /// # Errors
    /// See [`Compact::verified`].
    pub fn verified<const N: usize>(
        &self,
        key: &SignatureKey,
        names: [&'static str; N],
    ) -> Result<[Option<Value>; N], NotVerified> {
        let members = strict_json::members(&self.parts.verified(key)?, names);
        members.map(|members| members.named).map_err(|_| NotVerified::Claims)
    }
}

/// Why a token that was taken apart gives no claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// The signature is not by this key.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// The claims are not spelled canonically.
    #[error(transparent)]
    Malformed(Malformed),
    /// The claims are no JSON object with every name once.
    #[error("its claims must be a JSON object in which every name stands once")]
    Claims,
}

fn decode(part: &str) -> Result<Vec<u8>, Malformed> {
    BASE64URL.decode(part).map_err(|_| Malformed::Base64)
}

/// A public key, parsed once and ready to verify.
pub struct SignatureKey {
    kid: Kid,
    material: VerificationMaterial,
}

/// The forms in which verifying costs the least; see the private half in `key`.
enum VerificationMaterial {
    Rsa(RsaContexts<Public>),
    P256(EcKey<Public>),
}

impl fmt::Debug for SignatureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({}, {})", self.kid, self.algorithm())
    }
}

impl SignatureKey {
    /// The key that this JWK publishes.
    ///
    /// # Errors
    /// [`VerifyError::Key`] when it holds none: not base64url, not on the curve, no possible modulus.
    pub fn new(jwk: &PublicJwk) -> Result<Self, VerifyError> {
        let material = match &jwk.parameters {
            KeyParameters::Rsa { n, e } => rsa(n, e),
            KeyParameters::P256 { x, y } => p256(x, y),
        };
        let material = material.map_err(|_: ErrorStack| VerifyError::Key)?;
        let key = Self {
            kid: jwk.kid.clone(),
            material,
        };
        if key.algorithm() == jwk.alg {
            Ok(key)
        } else {
            Err(VerifyError::Key)
        }
    }

    /// Its name.
    #[must_use]
    pub const fn kid(&self) -> &Kid {
        &self.kid
    }

    /// The only algorithm that it verifies (RFC 8725 section 3.1).
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.material {
            VerificationMaterial::Rsa(_) => Algorithm::Rs256,
            VerificationMaterial::P256(_) => Algorithm::Es256,
        }
    }

    /// Verifies a signature over `message`: RS256 of exactly the modulus' length (RFC 8017 section 8.2.2), ES256 of the 64
    /// octets R and S (RFC 7518 section 3.4).
    ///
    /// # Errors
    /// [`VerifyError::Signature`] when this key did not make it.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        let verified = match &self.material {
            VerificationMaterial::Rsa(rsa) => rsa.verify(message, signature),
            VerificationMaterial::P256(key) => verify_p256(key, message, signature),
        };
        // OpenSSL reports some malformed signatures as errors; they stay on its queue, which `ErrorStack` has emptied.
        match verified {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(VerifyError::Signature),
        }
    }
}

/// OpenSSL refuses R and S that are zero or not below the order.
fn verify_p256(key: &EcKey<Public>, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
    let Some((r, s)) = signature.split_at_checked(32).filter(|(_, s)| s.len() == 32) else {
        return Ok(false);
    };
    let pair = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
    pair.verify(&sha256(message), key)
}

fn rsa(n: &str, e: &str) -> Result<VerificationMaterial, ErrorStack> {
    let key = Rsa::from_public_components(number(n)?, number(e)?)?;
    Ok(VerificationMaterial::Rsa(RsaContexts::new(PKey::from_rsa(key)?)?))
}

fn p256(x: &str, y: &str) -> Result<VerificationMaterial, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    // It checks that the point lies on the curve.
    let key = EcKey::from_public_key_affine_coordinates(&group, &*number(x)?, &*number(y)?)?;
    key.check_key()?;
    Ok(VerificationMaterial::P256(key))
}

fn number(text: &str) -> Result<BigNum, ErrorStack> {
    BigNum::from_slice(&BASE64URL.decode(text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::key::{PrivateKey, RsaBits, verify};

    #[test]
    fn both_implementations_agree_on_good_and_damaged_signatures() {
        for alg in Algorithm::ALL {
            let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
            let jwk = key.public_jwk().unwrap();
            let prebuilt = SignatureKey::new(&jwk).unwrap();
            let signature = key.sign(b"message").unwrap();
            assert_eq!(prebuilt.verify(b"message", &signature), Ok(()));
            assert!(prebuilt.verify(b"massage", &signature).is_err());
            for at in 0..signature.len() {
                let mut damaged = signature.clone();
                damaged[at] ^= 1;
                assert_eq!(prebuilt.verify(b"message", &damaged), Err(VerifyError::Signature));
                assert_eq!(verify(&jwk, b"message", &damaged), Err(VerifyError::Signature));
            }
            assert_eq!(prebuilt.verify(b"message", &signature), Ok(()));
            for other in [
                &signature[1..],
                &[&signature[..], &[0]].concat(),
                &[&[0], &signature[..]].concat(),
                &[],
            ] {
                assert_eq!(prebuilt.verify(b"message", other), Err(VerifyError::Signature));
            }
        }
    }

    #[test]
    fn a_jwk_without_a_key_gives_none() {
        let key = PrivateKey::generate(Algorithm::Es256, RsaBits::Bits2048).unwrap();
        let good = key.public_jwk().unwrap();
        let zeros = BASE64URL.encode([0; 32]);
        for parameters in [
            KeyParameters::P256 {
                x: zeros.clone(),
                y: zeros.clone(),
            },
            KeyParameters::P256 {
                x: "!".to_owned(),
                y: zeros,
            },
        ] {
            assert!(
                SignatureKey::new(&PublicJwk {
                    parameters,
                    ..good.clone()
                })
                .is_err()
            );
        }
        assert!(
            SignatureKey::new(&PublicJwk {
                alg: Algorithm::Rs256,
                ..good
            })
            .is_err()
        );
    }

    #[test]
    fn a_type_is_a_media_type() {
        for typ in ["JWT", "jwt", "application/jwt", "Application/JWT"] {
            assert!(is_type(typ, &["jwt"]), "{typ}");
        }
        for typ in [
            "",
            "application/",
            "/jwt",
            "at+jwt",
            "application/at+jwt",
            "application/application/jwt",
            "text/jwt",
            "jwt ",
            "jwt;a=b",
        ] {
            assert!(!is_type(typ, &["jwt"]), "{typ}");
        }
    }

    #[test]
    fn a_token_has_one_spelling() {
        let good = format!("{}.e30.AA", BASE64URL.encode(r#"{"alg":"a","typ":"t","kid":"k"}"#));
        assert!(Unverified::parse(&good).is_ok());
        let header = |text: &str| format!("{}.e30.AA", BASE64URL.encode(text));
        for (token, fault) in [
            (".".repeat(8 * 1024 * 1024), Malformed::TooLong),
            (format!("{good}{}", "A".repeat(8_192)), Malformed::TooLong),
            (".".repeat(100), Malformed::Parts),
            (String::new(), Malformed::Parts),
            (format!("{good}."), Malformed::Parts),
            (good.replace(".AA", "."), Malformed::Parts),
            (good.replace(".AA", ""), Malformed::Parts),
            (good.replace(".AA", ".AB"), Malformed::Base64),
            (good.replace(".AA", ".AA=="), Malformed::Base64),
            (good.replace(".AA", ".A A"), Malformed::Base64),
            (good.replace(".AA", ".A+/A"), Malformed::Base64),
            (header(r#"["a","t","k"]"#), Malformed::Header),
            (
                header("{\"alg\":\"a\",\"typ\":\"t\",\"kid\":\"k\"}\n"),
                Malformed::Header,
            ),
            (
                header(r#"{"alg":"a","typ":"t","kid":"k","kid":"k"}"#),
                Malformed::Header,
            ),
            (header(r#"{"alg":"a","typ":"t"}"#), Malformed::HeaderMembers),
            (header(r#"{"alg":"a","typ":"t","kid":1}"#), Malformed::HeaderMembers),
            (
                header(r#"{"alg":"a","typ":"t","kid":"k","crit":[]}"#),
                Malformed::HeaderMembers,
            ),
        ] {
            assert_eq!(Unverified::parse(&token).err(), Some(fault));
        }
    }
}
