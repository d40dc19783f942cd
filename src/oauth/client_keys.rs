//! The public keys by which a client proves itself, as a JWK set (RFC 7517 section 5).

use crate::jose::jwk::PublicJwk;
use crate::jose::jwk_set::{IssuerKey, JwkSet, JwkSetError, LeftOut};
use crate::keys::keyset::KeySet;

use super::client::JwksUri;

/// A client changes its keys with both in the set; more than a few are a mistake.
pub const MOST_KEYS: usize = 10;

/// Where the keys of a client are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKeys {
    /// Registered with it.
    Registered(KeySet),
    /// Published by it.
    Published(JwksUri),
}

/// Reads a set that is to be registered: the keys that can be used, and those that are left out (RFC 7517 section 5).
///
/// # Errors
/// What is wrong, as the rest of a sentence; nothing of the text is in it, which could be a private key.
pub fn read(document: &[u8]) -> Result<(KeySet, Vec<LeftOut>), String> {
    let read = JwkSet::read(document);
    // Also a set in which nothing else is: that it is private is the worst of its faults.
    if let Some(private) = read
        .as_ref()
        .ok()
        .and_then(|set| set.left_out.iter().find(|key| key.is_private))
    {
        return Err(private.to_string());
    }
    let JwkSet { mut keys, left_out } = read.map_err(|error| error.to_string())?;
    if keys.len() > MOST_KEYS {
        return Err(format!(
            "it has {} keys that can be used; a client has at most {MOST_KEYS}",
            keys.len()
        ));
    }
    // The same key twice is no contradiction.
    let mut seen: Vec<PublicJwk> = Vec::new();
    keys.retain(|key| {
        let is_new = !seen.contains(key);
        seen.push(key.clone());
        is_new
    });
    let count = keys.len();
    let set = KeySet::default().union(keys);
    if set.jwks().len() < count {
        return Err("two of its keys have one kid and one algorithm; each must have its own kid".to_owned());
    }
    Ok((set, left_out))
}

/// The keys of a published set that can be used; others are ignored, as RFC 7517 section 5 asks for.
///
/// # Errors
/// When it is no set, or nothing in it can be used.
pub fn usable(document: &[u8]) -> Result<Vec<PublicJwk>, JwkSetError> {
    let set = JwkSet::read(document)?;
    report(&set.left_out);
    Ok(set.keys)
}

/// The same of an OpenID provider, each key with the issuer that it is for.
///
/// # Errors
/// As [`usable`].
pub fn usable_of_issuers(document: &[u8]) -> Result<Vec<IssuerKey>, JwkSetError> {
    let (keys, left_out) = JwkSet::read_of_issuers(document)?;
    report(&left_out);
    Ok(keys)
}

fn report(left_out: &[LeftOut]) {
    for key in left_out {
        tracing::debug!(%key, "a published key is ignored");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
            with("kid", json!("my key \"\u{e9}\"")),
        ] });
        let kids: Vec<String> = usable(set.to_string().as_bytes())
            .unwrap()
            .iter()
            .map(|key| key.kid.as_str().to_owned())
            .collect();
        assert_eq!(kids, ["good", "my key \"\u{e9}\""]);
        for nothing in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"AKP"}]}"#,
        ] {
            assert!(usable(nothing.as_bytes()).is_err(), "{nothing}");
        }
    }
}
