//! The public test vectors for keys and signatures (Project Wycheproof), and what our policy refuses of what they call valid.
//!
//! `docs/reference/vectors.md` has the counts; it is held equal to what this run saw.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use keyround::jose::alg::Algorithm;
use keyround::jose::id_token::{IdToken, IdTokenError};
use keyround::jose::import::{ImportError, Passphrase, read};
use keyround::jose::jwk::{KeyParameters, Kid, PublicJwk, thumbprint};
use keyround::jose::jwk_set::IssuerKey;
use keyround::jose::jws::{NotVerified, SignatureKey};
use keyround::jose::key::verify;
use keyround::oauth::client_keys::{usable, usable_of_issuers};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/reference/vectors.md");

/// How the page tells what became of the vectors of one file.
#[derive(Debug, Default)]
struct Counts {
    accepted: usize,
    refused: usize,
    /// Valid, or left to each implementation; and why we refuse them.
    by_policy: BTreeMap<&'static str, usize>,
}

/// The vectors of this file, or nothing where the run was told to go on without them.
#[expect(clippy::disallowed_methods, reason = "the run says what it does without")]
fn vectors(name: &str) -> Option<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/interop/vectors");
    if let Ok(text) = std::fs::read(folder.join(format!("{name}.json"))) {
        return Some(serde_json::from_slice(&text).unwrap());
    }
    let without = std::env::var("TEST_WITHOUT_VERIFIERS").unwrap_or_default();
    assert!(
        without.split(',').any(|left_out| left_out == "vectors"),
        "the public vectors are not installed: run make test, or set TEST_WITHOUT_VERIFIERS=vectors to go on without them"
    );
    None
}

fn array<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value[member].as_array().unwrap()
}

/// The keys of a group, as a client or a provider would publish them.
fn published(group: &Value) -> (Vec<IssuerKey>, Vec<Value>) {
    let keys = group.get("public").unwrap_or(&group["private"]);
    let keys = keys["keys"].as_array().cloned().unwrap_or_else(|| vec![keys.clone()]);
    (
        usable_of_issuers(json!({ "keys": keys }).to_string().as_bytes()).unwrap_or_default(),
        keys,
    )
}

/// Why a valid vector is not for us.
fn policy(keys: &[Value], token: &str) -> Option<&'static str> {
    let has = |member: &str, values: &[&str]| keys.iter().any(|key| values.iter().any(|value| key[member] == *value));
    if has("kty", &["oct"]) {
        Some("a secret as key (HS256, HS384, HS512, AES)")
    } else if has("alg", &["RS384", "RS512"]) {
        Some("RS384 and RS512")
    } else if has("alg", &["PS256", "PS384", "PS512"]) {
        Some("RSASSA-PSS (PS256, PS384, PS512)")
    } else if has("crv", &["P-521", "P-384"]) {
        Some("another curve than P-256")
    } else if has("use", &["enc"]) {
        Some("encryption")
    } else if token.contains("..") {
        Some("an empty payload")
    } else {
        None
    }
}

/// A token is accepted when the signature is good; that the vectors sign no claims is found only then.
fn is_accepted(token: &str, keys: &[IssuerKey]) -> bool {
    let verified = IdToken::parse(token).and_then(|token| token.verified(keys));
    matches!(verified, Ok(_) | Err(IdTokenError::NotVerified(NotVerified::Claims)))
}

fn tokens(name: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    for group in array(&vectors(name)?, "testGroups") {
        let (keys, texts) = published(group);
        for test in array(group, "tests") {
            let what = format!("{name} {}: {}", test["tcId"], test["comment"]);
            let token = ["jws", "jwe"].iter().find_map(|member| test.get(*member)).unwrap();
            let token = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
            match (test["result"].as_str().unwrap(), is_accepted(&token, &keys)) {
                ("valid", true) => counts.accepted += 1,
                ("invalid", false) => counts.refused += 1,
                ("valid", false) => {
                    let reason = policy(&texts, &token).unwrap_or_else(|| panic!("{what} is refused: {token}"));
                    *counts.by_policy.entry(reason).or_default() += 1;
                }
                (result, true) => panic!("{what} is accepted and {result}: {token}"),
                (result, _) => panic!("{what}: {result}"),
            }
        }
    }
    Some(counts)
}

fn octets(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap().as_bytes();
    hex.chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn signatures(name: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    for group in array(&vectors(name)?, "testGroups") {
        let pem = group["publicKeyPem"].as_str().unwrap();
        let key = read(pem.as_bytes(), Passphrase::None);
        for test in array(group, "tests") {
            let what = format!("{name} {}: {}", test["tcId"], test["comment"]);
            let is_good = key.as_ref().is_ok_and(|key| {
                let jwk = PublicJwk {
                    kid: thumbprint(&key.parameters),
                    alg: key.alg,
                    parameters: key.parameters.clone(),
                };
                let (message, signature) = (octets(&test["msg"]), octets(&test["sig"]));
                let once = SignatureKey::new(&jwk).unwrap().verify(&message, &signature).is_ok();
                assert_eq!(verify(&jwk, &message, &signature).is_ok(), once, "{what}");
                once
            });
            match (test["result"].as_str().unwrap(), is_good) {
                ("valid", true) => counts.accepted += 1,
                ("invalid", false) => counts.refused += 1,
                ("valid", false) if matches!(key, Err(ImportError::Exponent)) => {
                    *counts.by_policy.entry("an RSA exponent other than 65537").or_default() += 1;
                }
                ("acceptable", false) => {
                    *counts.by_policy.entry("a DigestInfo without NULL").or_default() += 1;
                }
                (result, is_good) => panic!("{what}: {result}, accepted: {is_good}, key: {:?}", key.as_ref().err()),
            }
        }
    }
    Some(counts)
}

fn row(name: &str, counts: &Counts) -> String {
    let policy: usize = counts.by_policy.values().sum();
    format!("| `{name}` | {} | {} | {policy} |", counts.accepted, counts.refused)
}

#[test]
fn the_public_vectors_are_accepted_and_refused_as_the_page_says() {
    let mut by_policy: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, counts) in [
        ("json_web_key", tokens("json_web_key")),
        ("json_web_signature", tokens("json_web_signature")),
        ("json_web_crypto", tokens("json_web_crypto")),
        (
            "ecdsa_secp256r1_sha256_p1363",
            signatures("ecdsa_secp256r1_sha256_p1363"),
        ),
        ("rsa_signature_2048_sha256", signatures("rsa_signature_2048_sha256")),
        ("rsa_signature_3072_sha256", signatures("rsa_signature_3072_sha256")),
        ("rsa_signature_4096_sha256", signatures("rsa_signature_4096_sha256")),
    ] {
        let Some(counts) = counts else { return };
        let row = row(name, &counts);
        assert!(PAGE.contains(&row), "the page lacks: {row}");
        for (reason, count) in counts.by_policy {
            *by_policy.entry(reason).or_default() += count;
        }
    }
    for (reason, count) in by_policy {
        let row = format!("| {reason} | {count} |");
        assert!(PAGE.contains(&row), "the page lacks: {row}");
    }
}

/// A point or a modulus that no honest key has.
#[test]
fn keys_that_are_none_are_refused_by_every_reader() {
    let zero = BASE64URL.encode([0; 32]);
    let p = "_____wAAAAEAAAAAAAAAAAAAAAD_______________8";
    let even = BASE64URL.encode([&[0x80][..], &[0; 254], &[0x02]].concat());
    let points = [
        (zero.as_str(), zero.as_str()),
        (p, zero.as_str()),
        (p, p),
        (zero.as_str(), p),
    ];
    let mut keys: Vec<Value> = points
        .iter()
        .map(|(x, y)| json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y }))
        .collect();
    keys.push(json!({ "kty": "RSA", "n": even, "e": "AQAB" }));
    for mut key in keys {
        assert!(read(key.to_string().as_bytes(), Passphrase::None).is_err(), "{key}");
        let alg = if key["kty"] == "EC" {
            Algorithm::Es256
        } else {
            Algorithm::Rs256
        };
        key["alg"] = alg.name().into();
        key["kid"] = "a".into();
        key["use"] = "sig".into();
        assert!(
            usable(json!({ "keys": [key] }).to_string().as_bytes())
                .unwrap_or_default()
                .is_empty(),
            "{key}"
        );
        if let (Some(x), Some(y)) = (key["x"].as_str(), key["y"].as_str()) {
            let jwk = PublicJwk {
                kid: "a".parse::<Kid>().unwrap(),
                alg,
                parameters: KeyParameters::P256 {
                    x: x.to_owned(),
                    y: y.to_owned(),
                },
            };
            assert!(SignatureKey::new(&jwk).is_err(), "{key}");
        }
    }
}
