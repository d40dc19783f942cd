//! Which member of a JWK is not as RFC 7517 has it. No value is kept or told: it may be a private half.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

const TEXTS: [&str; 16] = [
    "kty", "use", "alg", "kid", "crv", "n", "e", "x", "y", "d", "p", "q", "dp", "dq", "qi", "k",
];
const LISTS: [&str; 3] = ["key_ops", "keys", "oth"];

/// The first member at fault, in a sentence; none where the text is no JSON object.
pub(super) fn fault(text: &str) -> Option<String> {
    serde_json::Deserializer::from_str(text)
        .deserialize_map(FirstFault)
        .ok()
        .flatten()
}

struct FirstFault;

impl<'de> Visitor<'de> for FirstFault {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = BTreeSet::new();
        let mut first = None;
        while let Some((name, kind)) = map.next_entry::<String, ImportedKind>()? {
            let is_text = TEXTS.contains(&name.as_str());
            let is_list = LISTS.contains(&name.as_str());
            // Another name is not repeated: nothing bounds it, and it may be a secret.
            let fault = match kind {
                _ if (is_text || is_list) && names.contains(&name) => Some(format!("it has '{name}' twice")),
                ImportedKind::Text | ImportedKind::Null if is_text => None,
                _ if is_text => Some(format!("its '{name}' must be a string")),
                ImportedKind::List | ImportedKind::Null if is_list => None,
                ImportedKind::OtherList if name != "key_ops" => None,
                _ if is_list => Some(format!(
                    "its '{name}' must be an array{}",
                    if name == "key_ops" { " of strings" } else { "" }
                )),
                _ => None,
            };
            first = first.or(fault);
            names.insert(name);
        }
        Ok(first)
    }
}

/// What a member is.
#[derive(Clone, Copy)]
enum ImportedKind {
    Null,
    Text,
    /// An array of texts.
    List,
    OtherList,
    Other,
}

impl<'de> Deserialize<'de> for ImportedKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindOf)
    }
}

struct KindOf;

impl<'de> Visitor<'de> for KindOf {
    type Value = ImportedKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member")
    }

    fn visit_unit<E>(self) -> Result<ImportedKind, E> {
        Ok(ImportedKind::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<ImportedKind, E> {
        Ok(ImportedKind::Text)
    }

    fn visit_bool<E>(self, _: bool) -> Result<ImportedKind, E> {
        Ok(ImportedKind::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<ImportedKind, E> {
        Ok(ImportedKind::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<ImportedKind, E> {
        Ok(ImportedKind::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<ImportedKind, E> {
        Ok(ImportedKind::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ImportedKind, A::Error> {
        let mut kind = ImportedKind::List;
        while let Some(item) = items.next_element::<Self::Value>()? {
            if !matches!(item, ImportedKind::Text) {
                kind = ImportedKind::OtherList;
            }
        }
        Ok(kind)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ImportedKind, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(ImportedKind::Other)
    }
}

#[cfg(test)]
mod tests {
    use crate::jose::import::{Passphrase, read};

    #[test]
    fn the_member_at_fault_is_named_and_no_value_is_told() {
        let secret = "dGhlLXByaXZhdGUtaGFsZg";
        for (members, says) in [
            (r#""kid":7,"d":"SECRET""#, "its 'kid' must be a string"),
            (r#""d":{"SECRET":1}"#, "its 'd' must be a string"),
            (r#""d":["SECRET"]"#, "its 'd' must be a string"),
            (r#""d":"SECRET","d":"SECRET""#, "it has 'd' twice"),
            (r#""kty":null,"kty":"EC""#, "it has 'kty' twice"),
            (r#""key_ops":"SECRET""#, "its 'key_ops' must be an array of strings"),
            (r#""key_ops":[1]"#, "its 'key_ops' must be an array of strings"),
            (r#""keys":7"#, "its 'keys' must be an array"),
            (r#""use":["sig"]"#, "its 'use' must be a string"),
            (r#""alg":true"#, "its 'alg' must be a string"),
            (r#""p":1.5"#, "its 'p' must be a string"),
            (r#""x":"AA","y":"AA""#, "it has no 'kty'"),
            (r#""kty":"EC","x":"AA","y":"AA""#, "it has no 'crv'"),
            (r#""kty":"RSA","e":"AQAB""#, "it has no 'n'"),
            (r#""kty":"EC","crv":"P-256","x":"AA""#, "it has no 'y'"),
            (
                r#""kty":"EC","crv":"P-256","x":"A!","y":"AA""#,
                "its 'x' is not base64url",
            ),
            (r#""kty":"EC","d":"SECRET"#, "line 1, column"),
            (r#""kty":"EC",}"#, "line 1, column"),
        ] {
            let jwk = format!("{{{}}}", members.replace("SECRET", secret));
            let refusal = read(jwk.as_bytes(), Passphrase::None).unwrap_err().to_string();
            assert!(refusal.contains(says), "{jwk}: {refusal}");
            assert!(!refusal.contains(secret), "{refusal}");
        }
    }
}
