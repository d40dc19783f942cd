//! One key as JWK (RFC 7517, RFC 7518 section 6).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Rsa;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::jose::alg::Algorithm;

use super::members;
use super::{ImportError, Imported, primes, private_p256, private_rsa, public, rsa_parameters};

/// The members that matter; others are left alone (RFC 7517 section 4).
#[derive(Deserialize)]
struct ImportedMembers {
    kty: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<PrivateMember>,
    p: Option<PrivateMember>,
    q: Option<PrivateMember>,
    dp: Option<PrivateMember>,
    dq: Option<PrivateMember>,
    qi: Option<PrivateMember>,
    oth: Option<serde::de::IgnoredAny>,
    keys: Option<Vec<serde::de::IgnoredAny>>,
}

impl ImportedMembers {
    /// Whether a JWK was meant, although it does not say of which kind.
    const fn names_a_key(&self) -> bool {
        self.n.is_some() || self.x.is_some() || self.crv.is_some() || self.d.is_some()
    }
}

/// A private member, wiped when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct PrivateMember(Zeroizing<String>);

impl From<String> for PrivateMember {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

pub(super) fn read(text: &str) -> Result<Imported, ImportError> {
    // The message of the parser may quote a private member, so the name or the place of the fault is told.
    let members: ImportedMembers = serde_json::from_str(text).map_err(|error| {
        ImportError::Jwk(members::fault(text).unwrap_or_else(|| {
            format!(
                "line {}, column {} is not as RFC 7517 has it",
                error.line(),
                error.column()
            )
        }))
    })?;
    if let Some(keys) = &members.keys {
        return Err(match keys.len() {
            1 => ImportError::Jwk("it is a JWK set; take the one key out of its array 'keys'".to_owned()),
            count => ImportError::Several(count),
        });
    }
    if members.r#use.as_deref().is_some_and(|usage| usage != "sig") {
        return Err(ImportError::Jwk("its 'use' must be sig".to_owned()));
    }
    if let Some(operations) = &members.key_ops {
        check_operations(operations, members.d.is_some())?;
    }
    let kid = members.kid.as_deref().map(str::parse).transpose()?;
    let alg = match members.kty.as_deref() {
        Some("RSA") => Algorithm::Rs256,
        Some("EC") => Algorithm::Es256,
        Some("oct") => return Err(ImportError::Symmetric),
        Some(_) => return Err(ImportError::Kind),
        None if members.names_a_key() => return Err(ImportError::Jwk("it has no 'kty'".to_owned())),
        None => return Err(ImportError::NotAKey),
    };
    if alg == Algorithm::Es256 && members.crv.is_none() {
        return Err(ImportError::Jwk("it has no 'crv'".to_owned()));
    }
    if alg == Algorithm::Es256 && members.crv.as_deref() != Some("P-256") {
        return Err(ImportError::Curve);
    }
    if members.alg.as_deref().is_some_and(|named| named != alg.name()) {
        return Err(ImportError::Jwk(format!("its 'alg' must be {alg}, or be left out")));
    }
    let imported = match alg {
        Algorithm::Rs256 => rsa_from_jwk(&members)?,
        Algorithm::Es256 => p256_from_jwk(&members)?,
    };
    Ok(Imported { kid, ..imported })
}

/// The operations of RFC 7517 section 4.3 that no signature needs.
const OTHER_OPERATIONS: [&str; 6] = ["encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits"];

/// `key_ops` must allow what the key is for, and nothing beside signatures (RFC 7517 section 4.3).
fn check_operations(operations: &[String], is_private: bool) -> Result<(), ImportError> {
    let needed = if is_private { "sign" } else { "verify" };
    let refused = |why: String| Err(ImportError::Jwk(why));
    if let Some(other) = operations
        .iter()
        .find(|name| !matches!(name.as_str(), "sign" | "verify"))
    {
        // Another one is not repeated: the key may be a stranger's, and nothing bounds what it says.
        let told = OTHER_OPERATIONS.iter().find(|known| *known == other);
        let told = told.map_or_else(|| "another operation".to_owned(), |known| format!("'{known}'"));
        return refused(format!(
            "its 'key_ops' allow {told}; a key for signatures has no other operation than sign and verify"
        ));
    }
    if !operations.iter().any(|name| name == needed) {
        return refused(format!("its 'key_ops' do not allow {needed}"));
    }
    if operations
        .iter()
        .enumerate()
        .any(|(at, name)| operations[..at].contains(name))
    {
        return refused("its 'key_ops' name an operation twice".to_owned());
    }
    Ok(())
}

#[expect(clippy::many_single_char_names, reason = "the names of RFC 7518")]
fn rsa_from_jwk(members: &ImportedMembers) -> Result<Imported, ImportError> {
    let (n, e) = (member("n", members.n.as_ref())?, member("e", members.e.as_ref())?);
    let Some(d) = &members.d else {
        return public(&PKey::from_rsa(Rsa::from_public_components(n, e)?)?);
    };
    if members.oth.is_some() {
        return Err(ImportError::Jwk(
            "it has more than two primes ('oth'); it must have two".to_owned(),
        ));
    }
    // Out of range, OpenSSL would refuse them one by one; the sizes are told first, and bound what the primes cost.
    rsa_parameters(&*Rsa::from_public_components(n.to_owned()?, e.to_owned()?)?)?;
    let d = number("d", &d.0)?;
    let rest = [
        ("p", &members.p),
        ("q", &members.q),
        ("dp", &members.dp),
        ("dq", &members.dq),
        ("qi", &members.qi),
    ];
    let missing = rest.iter().find(|(_, value)| value.is_none());
    let key = match missing {
        None => {
            let [p, q, dp, dq, qi] = rest.map(|(name, value)| member(name, value.as_ref().map(|value| &*value.0)));
            Rsa::from_private_components(n, e, d, p?, q?, dp?, dq?, qi?)
        }
        Some(_) if rest.iter().all(|(_, value)| value.is_none()) => {
            let factors = primes::recover(&n, &e, &d)?.ok_or(ImportError::Inconsistent)?;
            let primes::Factors { p, q, dp, dq, qi } = factors;
            Rsa::from_private_components(n, e, d, p, q, dp, dq, qi)
        }
        Some((name, _)) => {
            return Err(ImportError::Jwk(format!(
                "it has no '{name}'; beside 'd' it has 'p', 'q', 'dp', 'dq' and 'qi', or none of them (RFC 7518 section 6.3.2)"
            )));
        }
    };
    private_rsa(key.map_err(|_| ImportError::Inconsistent)?)
}

fn p256_from_jwk(members: &ImportedMembers) -> Result<Imported, ImportError> {
    let (x, y) = (member("x", members.x.as_ref())?, member("y", members.y.as_ref())?);
    let key = point(&x, &y)?;
    let Some(d) = &members.d else {
        return public(&PKey::from_ec_key(key)?);
    };
    let secret = number("d", &d.0)?;
    let key = EcKey::from_private_components(key.group(), &secret, key.public_key())
        .map_err(|_| ImportError::Inconsistent)?;
    private_p256(key)
}

pub(super) fn point(x: &BigNum, y: &BigNum) -> Result<EcKey<Public>, ImportError> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    EcKey::from_public_key_affine_coordinates(&group, x, y).map_err(|_| ImportError::Inconsistent)
}

fn member(name: &str, text: Option<&String>) -> Result<BigNum, ImportError> {
    number(
        name,
        text.ok_or_else(|| ImportError::Jwk(format!("it has no '{name}'")))?,
    )
}

pub(super) fn number(name: &str, text: &str) -> Result<BigNum, ImportError> {
    let octets = BASE64URL
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| ImportError::Jwk(format!("its '{name}' is not base64url without padding")))?;
    Ok(BigNum::from_slice(&octets)?)
}
