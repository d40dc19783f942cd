//! Public keys as JSON (RFC 7517), and the thumbprint that names them (RFC 7638).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::EcGroup;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::sha::sha256;
use serde::Deserialize;

use super::alg::Algorithm;

pub use super::kid::{InvalidKid, Kid, LONGEST_KID};

/// The longest JWK that is read, in octets. An RSA key of 4096 bits takes under 900, and a kid in JSON at most six times its length.
const LONGEST_JWK: usize = 8 * LONGEST_KID;

/// The one RSA exponent in use, 65537, as octets.
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// A public signature key (RFC 7517 section 4; RFC 7518 sections 6.2.1 and 6.3.1), with the name it is published under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicJwk {
    /// Its name in the set.
    pub kid: Kid,
    /// The only algorithm it is for (RFC 8725 section 3.1).
    pub alg: Algorithm,
    /// The members that are the key.
    pub parameters: KeyParameters,
}

/// The members that make up the key, base64url without padding, no leading zero octet in `n` and `e`, `x` and `y` of
/// 32 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyParameters {
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
        // Written by hand because the bytes are hashed into the ETag; only the kid may have characters that JSON escapes.
        let (alg, kid) = (self.alg, serde_json::Value::from(self.kid.as_str()));
        match &self.parameters {
            KeyParameters::Rsa { n, e } => {
                format!(r#"{{"kty":"RSA","use":"sig","alg":"{alg}","kid":{kid},"n":"{n}","e":"{e}"}}"#)
            }
            KeyParameters::P256 { x, y } => {
                format!(r#"{{"kty":"EC","use":"sig","alg":"{alg}","kid":{kid},"crv":"P-256","x":"{x}","y":"{y}"}}"#)
            }
        }
    }
}

impl PublicJwk {
    /// The name of the key material itself, whatever `kid` it is published under (RFC 7638).
    #[must_use]
    pub fn thumbprint(&self) -> Kid {
        thumbprint(&self.parameters)
    }

    /// The names of everything that the private half of this key signs for: a point and its negative have private halves `d` and
    /// `n - d`, so that whoever has one has both.
    #[must_use]
    pub fn material_names(&self) -> Vec<Kid> {
        let negative = self.parameters.negative();
        std::iter::once(self.thumbprint())
            .chain(negative.as_ref().map(thumbprint))
            .collect()
    }

    /// Whether who has the private half of one has that of the other; their kids may differ.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        match (&self.parameters, &other.parameters) {
            // All exponents are 65537.
            (KeyParameters::Rsa { n, .. }, KeyParameters::Rsa { n: other, .. }) => n == other,
            // A point and its negative have one x.
            (KeyParameters::P256 { x, .. }, KeyParameters::P256 { x: other, .. }) => x == other,
            _ => false,
        }
    }
}

impl KeyParameters {
    /// The other point that has this x.
    fn negative(&self) -> Option<Self> {
        let Self::P256 { x, y } = self else { return None };
        let y = negative_y(&BASE64URL.decode(y).ok()?).ok()?;
        Some(Self::P256 {
            x: x.clone(),
            y: BASE64URL.encode(y),
        })
    }
}

/// `p - y`, with the prime `p` of P-256.
fn negative_y(y: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let (mut p, mut a, mut b) = (BigNum::new()?, BigNum::new()?, BigNum::new()?);
    group.components_gfp(&mut p, &mut a, &mut b, &mut *BigNumContext::new()?)?;
    let mut negative = BigNum::new()?;
    negative.checked_sub(&p, &*BigNum::from_slice(y)?)?;
    negative.to_vec_padded(32)
}

/// Why a text is not a public key that Keyround publishes or accepts.
#[derive(Debug, thiserror::Error)]
pub enum JwkError {
    /// The text is longer than any key can be.
    #[error("a JWK of {0} octets is too long; at most {LONGEST_JWK} are read")]
    TooLong(usize),
    /// Not a JSON object, or one with a member that is unknown, private, doubled or of the wrong type.
    #[error("the JWK must be a JSON object of the public members alone: {0}")]
    Members(serde_json::Error),
    /// A member must be there.
    #[error("the JWK has no '{0}'; it is required")]
    Missing(&'static str),
    /// A member belongs to another key type.
    #[error("'{member}' does not belong in a JWK whose kty is {kty}")]
    Foreign {
        /// The member.
        member: &'static str,
        /// The key type.
        kty: &'static str,
    },
    /// `kty`, `use`, `alg` and `crv` do not name one of the two kinds of key.
    #[error("the JWK must be kty RSA with alg RS256, or kty EC with crv P-256 and alg ES256, and its use must be sig")]
    Kind,
    /// Not base64url.
    #[error("'{0}' must be base64url without padding (RFC 7515 section 2)")]
    Base64(&'static str),
    /// An integer with a leading zero octet, or none at all.
    #[error("'{0}' must have at least one octet and no leading zero octet (RFC 7518 section 2)")]
    Integer(&'static str),
    /// The RSA exponent is another one.
    #[error("'e' must be 65537, which is AQAB")]
    Exponent,
    /// The RSA modulus is too short or too long.
    #[error("'n' has {0} bits; it must have 2048 to 4096")]
    ModulusBits(usize),
    /// A coordinate of the wrong length.
    #[error("'{member}' has {octets} octets; it must have 32 (RFC 7518 section 6.2.1.2)")]
    Coordinate {
        /// The member.
        member: &'static str,
        /// Its length.
        octets: usize,
    },
}

/// The members as they stand in the text. A private member is an unknown one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwkMembers {
    kty: String,
    r#use: String,
    alg: Algorithm,
    kid: Kid,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl PublicJwk {
    /// Reads a JWK strictly: `kty`, `use`, `alg` and `kid` present and in agreement, the key's own members in their one
    /// canonical form, and nothing else. It does not check that the point lies on the curve; `key::verify` does.
    ///
    /// # Errors
    /// [`JwkError`] says which member is wrong and what would be right.
    pub fn parse(json: &str) -> Result<Self, JwkError> {
        if json.len() > LONGEST_JWK {
            return Err(JwkError::TooLong(json.len()));
        }
        let members: JwkMembers = serde_json::from_str(json).map_err(JwkError::Members)?;
        if members.r#use != "sig" {
            return Err(JwkError::Kind);
        }
        let (kid, alg) = (members.kid.clone(), members.alg);
        let parameters = match (members.kty.as_str(), alg) {
            ("RSA", Algorithm::Rs256) => rsa_parameters(members)?,
            ("EC", Algorithm::Es256) => p256_parameters(members)?,
            _ => return Err(JwkError::Kind),
        };
        Ok(Self { kid, alg, parameters })
    }
}

fn rsa_parameters(members: JwkMembers) -> Result<KeyParameters, JwkError> {
    refuse_foreign("RSA", [("crv", &members.crv), ("x", &members.x), ("y", &members.y)])?;
    let n = members.n.ok_or(JwkError::Missing("n"))?;
    let e = members.e.ok_or(JwkError::Missing("e"))?;
    let modulus = integer("n", &n)?;
    if integer("e", &e)? != RSA_EXPONENT {
        return Err(JwkError::Exponent);
    }
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |octet| octet.leading_zeros() as usize);
    if !(2048..=4096).contains(&bits) {
        return Err(JwkError::ModulusBits(bits));
    }
    Ok(KeyParameters::Rsa { n, e })
}

fn p256_parameters(members: JwkMembers) -> Result<KeyParameters, JwkError> {
    refuse_foreign("EC", [("n", &members.n), ("e", &members.e)])?;
    match members.crv.as_deref() {
        Some("P-256") => (),
        Some(_) => return Err(JwkError::Kind),
        None => return Err(JwkError::Missing("crv")),
    }
    let x = members.x.ok_or(JwkError::Missing("x"))?;
    let y = members.y.ok_or(JwkError::Missing("y"))?;
    for (member, text) in [("x", &x), ("y", &y)] {
        let octets = decode(member, text)?.len();
        if octets != 32 {
            return Err(JwkError::Coordinate { member, octets });
        }
    }
    Ok(KeyParameters::P256 { x, y })
}

fn refuse_foreign<const N: usize>(
    kty: &'static str,
    members: [(&'static str, &Option<String>); N],
) -> Result<(), JwkError> {
    match members.into_iter().find(|(_, value)| value.is_some()) {
        Some((member, _)) => Err(JwkError::Foreign { member, kty }),
        None => Ok(()),
    }
}

fn integer(member: &'static str, text: &str) -> Result<Vec<u8>, JwkError> {
    let octets = decode(member, text)?;
    match octets.first() {
        None | Some(0) => Err(JwkError::Integer(member)),
        Some(_) => Ok(octets),
    }
}

fn decode(member: &'static str, text: &str) -> Result<Vec<u8>, JwkError> {
    BASE64URL.decode(text).map_err(|_| JwkError::Base64(member))
}

/// The length of a key set whose keys have these lengths, in bytes.
#[must_use]
pub fn set_bytes(keys: impl Iterator<Item = usize>) -> usize {
    let (count, bytes) = keys.fold((0_usize, 0_usize), |(count, bytes), key| {
        (count + 1, bytes.saturating_add(key))
    });
    r#"{"keys":[]}"#.len() + bytes + count.saturating_sub(1)
}

/// The name a key gives itself: SHA-256 over its required members in lexicographic order (RFC 7638 section 3).
#[must_use]
pub fn thumbprint(parameters: &KeyParameters) -> Kid {
    let canonical = match parameters {
        KeyParameters::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
        KeyParameters::P256 { x, y } => format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#),
    };
    Kid::of_digest(sha256_base64url(canonical.as_bytes()))
}

/// SHA-256 of these bytes in base64url: a name for them that anybody can check.
#[must_use]
pub fn sha256_base64url(bytes: &[u8]) -> String {
    BASE64URL.encode(sha256(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 7638 section 3.1.
    const RFC_7638_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    /// The coordinates of RFC 7515 appendix A.3.
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn rsa() -> String {
        format!(r#"{{"kty":"RSA","use":"sig","alg":"RS256","kid":"a","n":"{RFC_7638_N}","e":"AQAB"}}"#)
    }

    fn p256() -> String {
        format!(r#"{{"kty":"EC","use":"sig","alg":"ES256","kid":"b","crv":"P-256","x":"{X}","y":"{Y}"}}"#)
    }

    #[test]
    fn thumbprint_is_the_one_of_rfc_7638() {
        let kid = thumbprint(&KeyParameters::Rsa {
            n: RFC_7638_N.to_owned(),
            e: "AQAB".to_owned(),
        });
        assert_eq!(kid.as_str(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(kid.as_str().parse::<Kid>().unwrap(), kid);
    }

    #[test]
    fn a_thumbprint_of_p256_hashes_crv_kty_x_y() {
        let expected = sha256(format!(r#"{{"crv":"P-256","kty":"EC","x":"{X}","y":"{Y}"}}"#).as_bytes());
        let (x, y) = (X.to_owned(), Y.to_owned());
        let kid = thumbprint(&KeyParameters::P256 { x, y });
        assert_eq!(BASE64URL.decode(kid.as_str()).unwrap(), expected);
    }

    #[test]
    fn what_is_written_reads_back() {
        for kid in ["a", "my key", r#"a\"b\\c"#, r"a\nb\u001b", "cl\u{e9}", ""] {
            for json in [rsa(), p256()] {
                let json = json.replace(r#""kid":"a""#, &format!(r#""kid":"{kid}""#));
                let json = json.replace(r#""kid":"b""#, &format!(r#""kid":"{kid}""#));
                assert_eq!(PublicJwk::parse(&json).unwrap().to_json(), json);
            }
        }
    }

    #[test]
    fn each_fault_is_refused_with_its_own_reason() {
        let long_n = BASE64URL.encode([vec![1], vec![7; 512]].concat());
        let with_n = |n: &str| rsa().replace(RFC_7638_N, n);
        let with_x = |x: &str| p256().replace(X, x);
        let cases = [
            (rsa().replace(r#""kid":"a","#, ""), "missing field `kid`"),
            (rsa().replace(r#""use":"sig","#, ""), "missing field `use`"),
            (rsa().replace(r#""alg":"RS256","#, ""), "missing field `alg`"),
            (rsa().replace(r#""kty":"RSA","#, ""), "missing field `kty`"),
            (rsa().replace(r#""kid":"a""#, r#""kid":7"#), "invalid type"),
            (rsa().replace(r#""kid":"a""#, r#""kid":"a\u0000b""#), "a kid is"),
            (
                rsa().replace(r#""kid":"a""#, &format!(r#""kid":"{}""#, "a".repeat(LONGEST_KID + 1))),
                "a kid is",
            ),
            (rsa().replace("RS256", "HS256"), "unknown variant"),
            (rsa().replace("RS256", "ES256"), "must be kty RSA"),
            (rsa().replace("sig", "enc"), "use must be sig"),
            (rsa().replace("AQAB", "AQABAQ"), "'e' must be 65537"),
            (rsa().replace("AQAB", "Aw"), "'e' must be 65537"),
            (rsa().replace("AQAB", "AAEAAQ"), "'e' must have"),
            (rsa().replace(r#","e":"AQAB""#, ""), "no 'e'"),
            (rsa().replace('}', r#","d":"AQAB"}"#), "unknown field `d`"),
            (rsa().replace('}', r#","x":"AQAB"}"#), "'x' does not belong"),
            (rsa().replace('}', r#","e":"AQAB"}"#), "duplicate field `e`"),
            (rsa() + " x", "trailing characters"),
            (
                with_n(&BASE64URL.encode([vec![0], vec![0x81; 256]].concat())),
                "'n' must have",
            ),
            (
                with_n(&BASE64URL.encode([vec![0x7f], vec![9; 255]].concat())),
                "2047 bits",
            ),
            (with_n(&long_n), "4097 bits"),
            (with_n(""), "'n' must have"),
            (with_n(&format!("{RFC_7638_N}==")), "'n' must be base64url"),
            (with_n(&RFC_7638_N.replace('_', "/")), "'n' must be base64url"),
            (p256().replace("P-256", "P-384"), "crv P-256"),
            (p256().replace(r#""crv":"P-256","#, ""), "no 'crv'"),
            (with_x(&BASE64URL.encode([1; 31])), "'x' has 31 octets"),
            (with_x(&BASE64URL.encode([0; 33])), "'x' has 33 octets"),
            (p256().replace(Y, ""), "'y' has 0 octets"),
            (p256().replace('}', &" ".repeat(LONGEST_JWK)), "too long"),
            ("[]".to_owned(), "must be a JSON object"),
        ];
        for (json, reason) in cases {
            let refusal = PublicJwk::parse(&json).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{json}\n{refusal}\nwanted: {reason}");
        }
    }
}
