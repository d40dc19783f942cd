//! JWK sets of others (RFC 7517 section 5): keys that cannot be used are left out, and each is told with its reason.

use std::fmt;

use serde_json::Value;

use super::import::{self, Imported, Passphrase};
use super::jwk::{Kid, PublicJwk, thumbprint};

/// The most keys that are looked at. A large provider has keys for every region.
pub const MAX_KEYS: usize = 64;

/// How many reasons are told of a set in which nothing can be used.
const TOLD: usize = 5;

/// A set that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSet {
    /// The public keys that can be used, in their order.
    pub keys: Vec<PublicJwk>,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

/// A key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its place in the set, from 1.
    pub place: usize,
    /// Its name, where it has one that can be told.
    pub kid: Option<Kid>,
    /// Why; it holds nothing of the key.
    pub reason: String,
    /// Whether it is a private key, or a secret one: the set was not meant to be given away.
    pub is_private: bool,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.place)?;
        if let Some(kid) = &self.kid {
            write!(f, " ('{kid}')")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Why a text is no set. No variant holds a part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// Something else.
    #[error("it is not JSON; a JWK set is a JSON object with an array 'keys' (RFC 7517 section 5)")]
    NotJson,
    /// A PEM.
    #[error("it is PEM; a JWK set is a JSON object with an array 'keys' (RFC 7517 section 5)")]
    Pem,
    /// One key.
    #[error("it is one JWK; put it into a set: {{\"keys\":[...]}}")]
    OneKey,
    /// Other JSON.
    #[error("it has no array 'keys' (RFC 7517 section 5)")]
    NoKeys,
    /// Nothing in it.
    #[error("its array 'keys' is empty")]
    Empty,
    /// Too many.
    #[error("it has {0} keys; at most {MAX_KEYS} are read")]
    TooMany(usize),
    /// Nothing in it can be used.
    #[error("it has no key that can be used: {0}")]
    Unusable(String),
}

impl JwkSet {
    /// Reads a set. The keys to be used are public RSA keys from 2048 bits (RS256) and P-256 keys (ES256).
    ///
    /// # Errors
    /// When it is no set, or nothing in it can be used.
    pub fn read(document: &[u8]) -> Result<Self, JwkSetError> {
        let mut keys = Vec::new();
        let left_out = read(document, |key, _| keys.push(key))?;
        Ok(Self { keys, left_out })
    }

    /// Reads a set of keys of which each may be for one issuer only.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_of_issuers(document: &[u8]) -> Result<(Vec<IssuerKey>, Vec<LeftOut>), JwkSetError> {
        let mut keys = Vec::new();
        let left_out = read(document, |jwk, members| {
            keys.push(IssuerKey {
                jwk,
                issuer: KeyIssuer::read(members.get("issuer")),
            });
        })?;
        Ok((keys, left_out))
    }
}

/// A key of an OpenID provider, with the issuer that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerKey {
    /// The key.
    pub jwk: PublicJwk,
    /// Whose tokens it signs.
    pub issuer: KeyIssuer,
}

/// The member `issuer` of a JWK. RFC 7517 does not have it; a directory service with many issuers (Microsoft Entra ID) says by it
/// which of them a key of its one set is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyIssuer {
    /// There is no such member: every issuer that publishes the set.
    Any,
    /// This one, in which `{tenantid}` stands for the directory of the token.
    Only(String),
    /// The member is no text, so it is no issuer.
    Unreadable,
}

impl KeyIssuer {
    fn read(member: Option<&Value>) -> Self {
        match member {
            None | Some(Value::Null) => Self::Any,
            Some(Value::String(issuer)) => Self::Only(issuer.clone()),
            Some(_) => Self::Unreadable,
        }
    }
}

/// Hands over each key that can be used, with its members, and returns the others.
fn read(document: &[u8], mut usable: impl FnMut(PublicJwk, &Value)) -> Result<Vec<LeftOut>, JwkSetError> {
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let set: Value = serde_json::from_slice(document).map_err(|_| {
        if document.trim_ascii_start().starts_with(b"-----BEGIN ") {
            JwkSetError::Pem
        } else {
            JwkSetError::NotJson
        }
    })?;
    let keys = match (set.get("keys").and_then(Value::as_array), set.get("kty")) {
        (Some(keys), _) => keys,
        (None, Some(_)) => match public(&set) {
            // It is not to be put into a set first.
            Err(reason) if is_private(&set) => return Err(JwkSetError::Unusable(reason)),
            _ => return Err(JwkSetError::OneKey),
        },
        (None, None) => return Err(JwkSetError::NoKeys),
    };
    match keys.len() {
        0 => return Err(JwkSetError::Empty),
        1..=MAX_KEYS => {}
        count => return Err(JwkSetError::TooMany(count)),
    }
    let mut left_out = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        match public(key) {
            Ok(jwk) => usable(jwk, key),
            Err(reason) => left_out.push(LeftOut {
                place: index + 1,
                kid: key.get("kid").and_then(Value::as_str).and_then(|kid| kid.parse().ok()),
                reason,
                is_private: is_private(key),
            }),
        }
    }
    if left_out.len() == keys.len() {
        return Err(JwkSetError::Unusable(reasons(&left_out)));
    }
    Ok(left_out)
}

/// The first of them, in one line.
#[must_use]
pub fn reasons(left_out: &[LeftOut]) -> String {
    let told: Vec<String> = left_out.iter().take(TOLD).map(ToString::to_string).collect();
    let more = left_out.len().saturating_sub(TOLD);
    let rest = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    told.join("; ") + &rest
}

/// `d` of RSA, EC and OKP keys, `k` of secret ones (RFC 7518 section 6), `priv` of AKP ones.
fn is_private(key: &Value) -> bool {
    ["d", "k", "priv"]
        .iter()
        .any(|name| key.get(name).is_some_and(|value| !value.is_null()))
}

/// A key for an HMAC (RFC 7518 section 6.4), with or without its octets.
fn is_symmetric(key: &Value) -> bool {
    key.get("kty").and_then(Value::as_str) == Some("oct")
}

fn public(key: &Value) -> Result<PublicJwk, String> {
    // Before any arithmetic: the set may be a stranger's.
    if is_symmetric(key) {
        return Err(
            "it is a symmetric key ('kty' oct), a secret that both sides would have to share; publish the public half of an RSA (RS256) or \
             P-256 (ES256) key"
                .to_owned(),
        );
    }
    if is_private(key) {
        return Err("it holds a private key, which only its owner may have; publish the public half".to_owned());
    }
    if !key.is_object() {
        return Err("it is no JSON object".to_owned());
    }
    for name in ["kty", "use", "alg", "kid", "crv", "n", "e", "x", "y"] {
        if key
            .get(name)
            .is_some_and(|value| !value.is_string() && !value.is_null())
        {
            return Err(format!("its '{name}' is no string"));
        }
    }
    let Imported {
        kid, alg, parameters, ..
    } = import::read(key.to_string().as_bytes(), Passphrase::None).map_err(|error| error.to_string())?;
    Ok(PublicJwk {
        kid: kid.unwrap_or_else(|| thumbprint(&parameters)),
        alg,
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fixture(name: &str) -> Value {
        let path = format!("{}/tests/fixtures/keys/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
    }

    fn with(name: &str, value: Value) -> Value {
        let mut key = fixture("p256.public.jwk");
        key[name] = value;
        key
    }

    fn read(set: &Value) -> Result<JwkSet, JwkSetError> {
        JwkSet::read(set.to_string().as_bytes())
    }

    #[test]
    fn what_cannot_be_used_is_left_out_with_its_reason() {
        let cases = [
            (
                json!({"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "my\nkey"}),
                "another kind",
            ),
            (json!({"kty": "AKP", "pub": "AA", "alg": "ML-DSA-44"}), "another kind"),
            (with("use", json!("enc")), "'use' must be sig"),
            (with("key_ops", json!(["encrypt"])), "'key_ops' allow 'encrypt'"),
            (
                with("key_ops", json!(["x".repeat(600)])),
                "'key_ops' allow another operation",
            ),
            (with("crv", json!("P-384")), "another curve"),
            (with("alg", json!("ES384")), "'alg' must be ES256"),
            (with("kid", json!(7)), "'kid' is no string"),
            (with("x", json!(["a"])), "'x' is no string"),
            (with("kid", json!("a".repeat(600))), "kid cannot be kept"),
            (fixture("p256.jwk"), "private key"),
            (json!({"kty": "oct", "k": "AAAA"}), "symmetric key"),
            (json!({"kty": "oct"}), "symmetric key"),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "d": "AA", "x": "AA"}),
                "private key",
            ),
            (json!(7), "no JSON object"),
            (json!({}), "holds no key"),
        ];
        let keys: Vec<Value> = cases
            .iter()
            .map(|(key, _)| key.clone())
            .chain([fixture("rsa.public.jwk")])
            .collect();
        let set = read(&json!({ "keys": keys, "other": 1 })).unwrap();
        assert_eq!(set.keys.len(), 1);
        assert_eq!(set.left_out.len(), cases.len());
        for ((index, (key, reason)), left_out) in cases.iter().enumerate().zip(&set.left_out) {
            assert_eq!(left_out.place, index + 1);
            assert!(left_out.reason.contains(reason), "{key}: {left_out}");
            let is_private = *reason == "private key" || key.get("k").is_some();
            assert_eq!(left_out.is_private, is_private, "{key}");
        }
        assert!(
            set.left_out[0].to_string().starts_with("key 1 ('my\\nkey'): "),
            "{}",
            set.left_out[0]
        );
        let nothing = read(&json!({ "keys": keys[..7] })).unwrap_err().to_string();
        assert!(
            nothing.contains("no key that can be used: key 1") && nothing.ends_with("; and 2 more"),
            "{nothing}"
        );
    }

    #[test]
    fn members_that_say_nothing_against_a_key_do_not_matter() {
        for (name, value) in [
            ("x5c", json!(["AAAA"])),
            ("x5t#S256", json!("AA")),
            ("exp", json!(1)),
            ("key_ops", json!(["verify"])),
            ("ext", json!(true)),
            ("iat", json!(1.5)),
            ("use", Value::Null),
            ("alg", Value::Null),
            ("d", Value::Null),
            ("kid", json!("my \"key\" \u{e9}")),
            ("kid", json!("")),
        ] {
            let set = read(&json!({ "keys": [with(name, value.clone())] }));
            assert!(set.is_ok_and(|set| set.keys.len() == 1), "{name}: {value}");
        }
        let mut bare = fixture("rsa.public.jwk");
        for name in ["use", "alg", "kid"] {
            bare.as_object_mut().unwrap().remove(name);
        }
        let set = read(&json!({ "keys": [bare] })).unwrap();
        assert_eq!(set.keys[0].kid, set.keys[0].thumbprint());
    }

    #[test]
    fn what_is_no_set_is_told_apart() {
        let key = fixture("p256.public.jwk").to_string();
        for (text, error) in [
            ("", JwkSetError::NotJson),
            ("{", JwkSetError::NotJson),
            ("-----BEGIN PUBLIC KEY-----\n", JwkSetError::Pem),
            (&key, JwkSetError::OneKey),
            ("[]", JwkSetError::NoKeys),
            (r#"{"keys":{}}"#, JwkSetError::NoKeys),
            (r#"{"keys":[]}"#, JwkSetError::Empty),
        ] {
            assert_eq!(JwkSet::read(text.as_bytes()), Err(error), "{text}");
        }
        let many = json!({ "keys": vec![fixture("p256.public.jwk"); MAX_KEYS + 1] });
        assert_eq!(read(&many), Err(JwkSetError::TooMany(MAX_KEYS + 1)));
        let marked = format!("\u{feff}{{\"keys\":[{key}]}}");
        assert!(JwkSet::read(marked.as_bytes()).is_ok());
    }
}
