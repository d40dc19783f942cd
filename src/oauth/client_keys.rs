//! The public keys by which a client proves itself, as a JWK set (RFC 7517 section 5).

use serde_json::Value;

use crate::jose::import::{self, Imported, Passphrase};
use crate::jose::jwk::{PublicJwk, thumbprint};
use crate::keys::keyset::KeySet;

use super::client::JwksUri;

/// A client changes its keys with both in the set; more than a few are a mistake.
pub const MOST_KEYS: usize = 10;
/// A published set may be a large provider's, with keys for every region.
const MOST_PUBLISHED: usize = 64;

/// Where the keys of a client are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKeys {
    /// Registered with it.
    Registered(KeySet),
    /// Published by it.
    Published(JwksUri),
}

/// Reads a set that is to be registered: every key must be one that can be used.
///
/// # Errors
/// What is wrong, as the rest of a sentence; nothing of the text is in it, which could be a private key.
pub fn read(text: &str) -> Result<KeySet, String> {
    let set: Value = serde_json::from_str(text).map_err(|_| "it is not JSON".to_owned())?;
    let keys = set["keys"]
        .as_array()
        .filter(|keys| (1..=MOST_KEYS).contains(&keys.len()))
        .ok_or_else(|| format!("a JWK set has an array 'keys', here of 1 to {MOST_KEYS} keys"))?;
    let jwks: Vec<PublicJwk> = keys.iter().map(public).collect::<Result<_, String>>()?;
    let set = KeySet::default().union(jwks);
    if set.jwks().len() < keys.len() {
        return Err("two of its keys have one kid; each must have its own".to_owned());
    }
    Ok(set)
}

/// The keys of a published set that can be used; others are ignored, as RFC 7517 section 5 asks for.
#[must_use]
pub fn usable(document: &[u8]) -> Vec<PublicJwk> {
    let Ok(set) = serde_json::from_slice::<Value>(document) else {
        return Vec::new();
    };
    let keys = set["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let signs = |key: &&Value| key.get("use").is_none_or(|purpose| purpose == "sig");
    keys.iter()
        .filter(signs)
        .filter_map(|key| public(key).ok())
        .take(MOST_PUBLISHED)
        .collect()
}

fn public(key: &Value) -> Result<PublicJwk, String> {
    let Imported {
        private,
        kid,
        alg,
        parameters,
        ..
    } = import::read(key.to_string().as_bytes(), Passphrase::None).map_err(|error| error.to_string())?;
    if private.is_some() {
        return Err("it holds a private key, which only the client may have; register the public half".to_owned());
    }
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

    #[test]
    fn what_cannot_be_used_in_a_published_set_is_ignored() {
        let text = include_str!("../../tests/fixtures/keys/p256.public.jwk");
        let good: Value = serde_json::from_str(text).unwrap();
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let private: Value = serde_json::from_str(include_str!("../../tests/fixtures/keys/p256.jwk")).unwrap();
        let set = json!({ "keys": [
            with("kty", json!("OKP")), with("use", json!("enc")), with("crv", json!("P-384")), private, 7,
            with("key_ops", json!(["encrypt"])),
            with("kid", json!("good")),
        ] });
        let kids: Vec<String> = usable(set.to_string().as_bytes())
            .iter()
            .map(|key| key.kid.to_string())
            .collect();
        assert_eq!(kids, ["good"]);
        for nothing in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"AKP"}]}"#,
        ] {
            assert!(usable(nothing.as_bytes()).is_empty(), "{nothing}");
        }
    }
}
