//! Tokens that somebody made up: each is inactive or refused, whatever it says. Where the fault lies elsewhere the
//! signature is good, by the very key that the server signs with.

use std::net::TcpListener;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::PublicJwk;
use keyround::jose::jws::SignatureKey;
use keyround::jose::jwt::TokenType;
use keyround::jose::key::{PrivateKey, RsaBits};
use keyround::keyring::binding;
use keyround::oauth::verification::{AccessToken, Expected, TrustedKey, VerificationError, VerificationStep, verify};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::EcGroup;
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::Signer;
use serde_json::{Value, json};

use crate::helpers::{TestDatabase, master_key};
use crate::process::{Serving, run};
use crate::rows::Raw;

const ISSUER: &str = "https://id.example.com";
const NOW: i64 = 1_800_000_000;

/// A token with this header and these claims, rightly signed.
pub fn sign(key: &PrivateKey, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims));
    let signature = key.sign(message.as_bytes()).unwrap();
    format!("{message}.{}", BASE64URL.encode(signature))
}

/// A key of the server, and what a good token by it says.
struct Forge {
    key: PrivateKey,
    jwk: PublicJwk,
    claims: Value,
}

impl Forge {
    fn new(alg: Algorithm) -> Self {
        let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
        let jwk = key.public_jwk().unwrap();
        let claims = claims(ISSUER, NOW);
        Self { key, jwk, claims }
    }

    fn header(&self) -> String {
        format!(
            r#"{{"alg":"{}","typ":"at+jwt","kid":"{}"}}"#,
            self.jwk.alg, self.jwk.kid
        )
    }

    fn good(&self) -> String {
        sign(&self.key, &self.header(), &self.claims.to_string())
    }

    /// The parsed private key, for what the server never does.
    fn openssl(&self) -> PKey<Private> {
        PKey::private_key_from_pkcs8(&self.key.to_pkcs8_der().unwrap()).unwrap()
    }

    /// With one member of the header set to this JSON text, or added.
    fn with_header(&self, name: &str, value: &str) -> String {
        let mut header: Value = serde_json::from_str(&self.header()).unwrap();
        header[name] = serde_json::from_str(value).unwrap();
        sign(&self.key, &header.to_string(), &self.claims.to_string())
    }

    /// With one claim set to this JSON text, or left out.
    fn with_claim(&self, name: &str, value: Option<&str>) -> String {
        let members = self.claims.as_object().unwrap().iter();
        let mut texts: Vec<String> = members
            .filter(|(claim, _)| *claim != name)
            .map(|(claim, value)| format!("\"{claim}\":{value}"))
            .collect();
        texts.extend(value.map(|value| format!("\"{name}\":{value}")));
        sign(&self.key, &self.header(), &format!("{{{}}}", texts.join(",")))
    }

    fn with_signature(&self, signature: &[u8]) -> String {
        let good = self.good();
        let (message, _) = good.rsplit_once('.').unwrap();
        format!("{message}.{}", BASE64URL.encode(signature))
    }
}

fn claims(issuer: &str, now: i64) -> Value {
    json!({
        "iss": issuer, "sub": "billing", "aud": "https://api.example.com", "client_id": "billing",
        "iat": now, "exp": now + 600, "jti": "a-name", "scope": "read",
    })
}

/// Every token that must be refused; `bait` is an address that nobody may visit.
fn corpus(forge: &Forge, bait: &str) -> Vec<(String, String)> {
    let mut corpus: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, token: String| corpus.push((format!("{} {name}", forge.jwk.alg), token));
    let payload = BASE64URL.encode(forge.claims.to_string());
    let good = forge.good();
    let own_signature = good.rsplit('.').next().unwrap().to_owned();

    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = forge.header().replace(forge.jwk.alg.name(), none);
        let header = BASE64URL.encode(header);
        add("alg none without a signature", format!("{header}.{payload}."));
        add(
            "alg none with a signature",
            format!("{header}.{payload}.{own_signature}"),
        );
        add(
            "alg none, rightly signed",
            forge.with_header("alg", &format!("{none:?}")),
        );
    }
    for other in [
        "RS384", "PS256", "ES384", "HS256", "EdDSA", "rs256", "es256", "RS256 ", "RS256", "ES256",
    ] {
        if other != forge.jwk.alg.name() {
            add(
                "another alg, rightly signed",
                forge.with_header("alg", &format!("{other:?}")),
            );
        }
    }
    let public = forge.openssl();
    let pem = String::from_utf8(public.public_key_to_pem().unwrap()).unwrap();
    let secrets = [
        pem.clone().into_bytes(),
        pem.trim_end().as_bytes().to_vec(),
        public.public_key_to_der().unwrap(),
        forge.jwk.to_json().into_bytes(),
        Vec::from(b"\0"),
    ];
    for secret in secrets {
        let hmac = PKey::hmac(&secret).unwrap();
        for alg in ["HS256", forge.jwk.alg.name()] {
            let header = forge.header().replace(forge.jwk.alg.name(), alg);
            let message = format!("{}.{payload}", BASE64URL.encode(header));
            let mut signer = Signer::new(MessageDigest::sha256(), &hmac).unwrap();
            let mac = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
            add(
                "HMAC with the public key",
                format!("{message}.{}", BASE64URL.encode(mac)),
            );
        }
    }
    let thief = Forge::new(forge.jwk.alg);
    let thiefs_jwk = thief
        .jwk
        .to_json()
        .replace(thief.jwk.kid.as_str(), forge.jwk.kid.as_str());
    let url = format!("{bait}/jwks.json");
    for (name, value) in [
        ("jwk", thiefs_jwk.as_str()),
        ("jku", &format!("{url:?}")),
        ("x5u", &format!("{url:?}")),
        ("x5c", r#"["MIIB"]"#),
        ("x5t", "\"a\""),
        ("crit", "[]"),
        ("crit", r#"["exp"]"#),
        ("crit", r#"["b64"]"#),
        ("crit", "\"b64\""),
        ("crit", "null"),
        ("crit", "{}"),
        ("b64", "false"),
        ("b64", "true"),
        ("zip", "\"DEF\""),
        ("cty", "\"JWT\""),
        ("enc", "\"A128GCM\""),
        ("url", &format!("{url:?}")),
        ("ALG", "\"none\""),
    ] {
        add(
            &format!("header {name}, rightly signed"),
            forge.with_header(name, value),
        );
        let mut header: Value = serde_json::from_str(&forge.header()).unwrap();
        header[name] = serde_json::from_str(value).unwrap();
        let by_thief = sign(&thief.key, &header.to_string(), &forge.claims.to_string());
        add(&format!("header {name}, signed by a thief"), by_thief);
    }
    add(
        "signed by a thief",
        sign(&thief.key, &forge.header(), &forge.claims.to_string()),
    );
    for typ in [
        "JWT",
        "AT+JWT",
        "at+JWT",
        "application/at+jwt",
        "at+jwt ",
        "logout+jwt",
        "dpop+jwt",
        "",
    ] {
        add("another typ", forge.with_header("typ", &format!("{typ:?}")));
    }
    for kid in [
        String::new(),
        "unknown".to_owned(),
        "../../../../etc/passwd".to_owned(),
        "/dev/null".to_owned(),
        "file:///dev/null".to_owned(),
        "' OR 1=1 --".to_owned(),
        "x' UNION SELECT 'key".to_owned(),
        "a\0b".to_owned(),
        "\u{202e}".to_owned(),
        "k".repeat(10_000),
        format!("{} ", forge.jwk.kid),
        forge.jwk.kid.as_str().to_uppercase() + "x",
        thief.jwk.kid.to_string(),
    ] {
        add("another kid", forge.with_header("kid", &json!(kid).to_string()));
    }
    for value in ["1", "null", "[]", "true", r#"["a"]"#, "{}"] {
        for name in ["alg", "typ", "kid"] {
            add(&format!("header {name} as {value}"), forge.with_header(name, value));
        }
    }

    let (header, claims) = (forge.header(), forge.claims.to_string());
    let doubled = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    for name in ["alg", "typ", "kid"] {
        let parsed: Value = serde_json::from_str(&header).unwrap();
        let member = format!("\"{name}\":{}", parsed[name]);
        add(
            "a doubled header name",
            sign(&forge.key, &doubled(&header, &member), &claims),
        );
    }
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"] {
        let member = format!("\"{name}\":{}", forge.claims[name]);
        add("a doubled claim", sign(&forge.key, &header, &doubled(&claims, &member)));
        let escaped = format!("\"\\u{:04x}{}\":{}", name.as_bytes()[0], &name[1..], forge.claims[name]);
        add(
            "a doubled claim in escapes",
            sign(&forge.key, &header, &doubled(&claims, &escaped)),
        );
    }
    add(
        "a doubled name deep inside",
        forge.with_claim("x", Some(r#"[{"a":{"b":1,"b":1}}]"#)),
    );

    let now = forge.claims["iat"].as_i64().unwrap();
    for name in ["exp", "iat", "nbf"] {
        for value in [
            format!("\"{now}\""),
            format!("{now}.0"),
            format!("{now}.5"),
            format!("[{now}]"),
            format!("{{\"a\":{now}}}"),
            "null".to_owned(),
            "true".to_owned(),
            "-1".to_owned(),
            "-9223372036854775808".to_owned(),
            "1e300".to_owned(),
            "1e10".to_owned(),
            "1e999".to_owned(),
            "1e19".to_owned(),
            "9223372036854775807".to_owned(),
            "9223372036854775808".to_owned(),
            "18446744073709551616".to_owned(),
            "253402300800".to_owned(),
            "NaN".to_owned(),
            "Infinity".to_owned(),
            "-0".to_owned(),
            (now + 100_000).to_string(),
        ] {
            add(&format!("{name} is {value}"), forge.with_claim(name, Some(&value)));
        }
    }
    let long = format!("\"{}\"", "j".repeat(1_025));
    add("jti is too long for an index", forge.with_claim("jti", Some(&long)));
    add("it has expired", forge.with_claim("exp", Some(&(now - 1).to_string())));
    add(
        "it expires when it begins",
        forge.with_claim("exp", Some(&now.to_string())),
    );
    add(
        "it lives too long",
        forge.with_claim("exp", Some(&(now + 3_601).to_string())),
    );
    add(
        "it has long been living",
        forge.with_claim("iat", Some(&(now - 3_600).to_string())),
    );
    add(
        "it is from the future",
        forge.with_claim("iat", Some(&(now + 120).to_string())),
    );
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        add(&format!("without {name}"), forge.with_claim(name, None));
        if !["exp", "iat", "aud"].contains(&name) {
            let nul = forge.with_claim(name, Some(r#""a\u0000b""#));
            add(&format!("{name} with U+0000"), nul);
        }
        for value in ["\"\"", "1", "null", "[]", "[1]", "[\"\"]", "{}"] {
            add(&format!("{name} is {value}"), forge.with_claim(name, Some(value)));
        }
    }
    add("scope is a list", forge.with_claim("scope", Some("[\"read\"]")));
    let issuer = forge.claims["iss"].as_str().unwrap();
    for iss in [
        format!("{issuer}/"),
        issuer.to_uppercase(),
        format!("{issuer}.evil.example"),
        "https://evil.example".to_owned(),
    ] {
        add("another iss", forge.with_claim("iss", Some(&format!("{iss:?}"))));
    }
    for claims in [
        "",
        "null",
        "[]",
        "1",
        "\"a\"",
        "{",
        "{}",
        "{} ",
        "\u{feff}{}",
        &format!("{claims}{claims}"),
        &format!(" {claims}"),
    ] {
        add("claims that are no object", sign(&forge.key, &header, claims));
    }
    add(
        "a deep claim",
        forge.with_claim("x", Some(&format!("{}1{}", "[".repeat(500), "]".repeat(500)))),
    );
    for header in [
        String::new(),
        "null".to_owned(),
        format!(r#"["{}","at+jwt","{}"]"#, forge.jwk.alg, forge.jwk.kid),
        format!("{header} "),
        format!("\u{feff}{header}"),
    ] {
        add("a header that is no object", sign(&forge.key, &header, &claims));
    }

    let parts: Vec<&str> = good.split('.').collect();
    let [first, second, third] = parts[..] else {
        unreachable!()
    };
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        ".".repeat(8_000),
        ".".repeat(12_000),
        format!("{first}.{second}"),
        format!("{first}.{second}."),
        format!("{first}..{third}"),
        format!(".{second}.{third}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{third}"),
        format!("{good}.{second}.{third}"),
        format!("{first}.{second}.{third}="),
        format!("{first}=.{second}.{third}"),
        format!("{first}.{second}.{third}\n"),
        format!(" {good}"),
        format!("Bearer {good}"),
        format!("{good},{good}"),
        good.to_uppercase(),
        good.to_lowercase(),
        format!("{second}.{first}.{third}"),
        format!("{first}.{}.{third}", BASE64URL.encode("a".repeat(8_000))),
        json!({ "protected": first, "payload": second, "signature": third }).to_string(),
        json!({ "payload": second, "signatures": [{ "protected": first, "signature": third }] }).to_string(),
    ] {
        add("another shape", token);
    }
    let standard = base64::engine::general_purpose::STANDARD;
    add(
        "the signature in plain base64",
        format!("{first}.{second}.{}", standard.encode(BASE64URL.decode(third).unwrap())),
    );
    match forge.jwk.alg {
        Algorithm::Rs256 => rsa_signatures(forge, &mut add),
        Algorithm::Es256 => p256_signatures(forge, &mut add),
    }
    corpus
}

fn octets_of(number: &BigNum) -> Vec<u8> {
    number.to_vec_padded(32).unwrap()
}

fn p256_signatures(forge: &Forge, add: &mut impl FnMut(&str, String)) {
    let good = forge.good();
    let signature = BASE64URL.decode(good.rsplit('.').next().unwrap()).unwrap();
    let good_message = good.rsplit_once('.').unwrap().0;
    let put = |signature: &[u8]| format!("{good_message}.{}", BASE64URL.encode(signature));
    let (r, s) = signature.split_at(32);
    let pair =
        EcdsaSig::from_private_components(BigNum::from_slice(r).unwrap(), BigNum::from_slice(s).unwrap()).unwrap();
    let (mut order, mut context) = (BigNum::new().unwrap(), BigNumContext::new().unwrap());
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    group.order(&mut order, &mut context).unwrap();
    let (zero, n) = ([0; 32], octets_of(&order));
    add("ES256 as DER", put(&pair.to_der().unwrap()));
    for (name, parts) in [
        ("r and s zero", [&zero[..], &zero]),
        ("r zero", [&zero, s]),
        ("s zero", [r, &zero]),
        ("swapped", [s, r]),
        ("r is n", [&n, s]),
        ("s is n", [r, &n]),
        ("both are n", [&n, &n]),
        ("r too large", [&[0xff; 32], s]),
        ("s too large", [r, &[0xff; 32]]),
        ("r twice", [r, r]),
        ("too short", [r, &s[1..]]),
        ("without s", [r, &[]]),
    ] {
        add(&format!("ES256 with {name}"), put(&parts.concat()));
    }
    add("ES256 with a zero octet before", put(&[&[0], &signature[..]].concat()));
    add("ES256 with a zero octet behind", put(&[&signature[..], &[0]].concat()));
    add("ES256 padded to P-384", put(&[&[0; 16][..], r, &[0; 16], s].concat()));
}

fn rsa_signatures(forge: &Forge, add: &mut impl FnMut(&str, String)) {
    const SHA256: [u8; 19] = [48, 49, 48, 13, 6, 9, 96, 134, 72, 1, 101, 3, 4, 2, 1, 5, 0, 4, 32];
    let rsa = forge.openssl().rsa().unwrap();
    let good = forge.good();
    let hash = openssl::sha::sha256(good.rsplit_once('.').unwrap().0.as_bytes());
    let size = rsa.size() as usize;
    // The private operation over any padded block: only the padding is wrong.
    let sealed = |block: &[u8]| {
        let mut signature = vec![0; size];
        rsa.private_encrypt(block, &mut signature, Padding::NONE).unwrap();
        forge.with_signature(&signature)
    };
    let block = |filling: &[u8], info: &[u8]| [&[0, 1], filling, &[0], info].concat();
    let info = [&SHA256[..], &hash].concat();
    let filling = vec![0xff; size - 3 - info.len()];
    let right = block(&filling, &info);
    assert_eq!(sealed(&right), good, "the padding of the test is not the right one");
    for at in 0..right.len() - 32 {
        // A first octet above zero would be larger than the modulus.
        if at > 0 {
            let mut damaged = right.clone();
            damaged[at] ^= 1;
            add(&format!("PKCS#1 with octet {at} changed"), sealed(&damaged));
        }
    }
    let with_info = |info: &[u8]| block(&vec![0xff; size - 3 - info.len()], info);
    let without_null = [
        &[48, 47, 48, 11, 6, 9, 96, 134, 72, 1, 101, 3, 4, 2, 1, 4, 32][..],
        &hash,
    ]
    .concat();
    add("PKCS#1 without NULL", sealed(&with_info(&without_null)));
    add("PKCS#1 with the bare hash", sealed(&with_info(&hash)));
    let sha1 = [&[48, 33, 48, 9, 6, 5, 43, 14, 3, 2, 26, 5, 0, 4, 20][..], &hash[..20]].concat();
    add("PKCS#1 with SHA-1", sealed(&with_info(&sha1)));
    for short in [0, 1, 8] {
        // Bleichenbacher 2006: room behind the hash.
        let mut loose = block(&vec![0xff; short], &info);
        loose.resize(size, 0);
        add("PKCS#1 with room behind the hash", sealed(&loose));
    }
    let mut type_two = right.clone();
    type_two[1] = 2;
    add("PKCS#1 of type 2", sealed(&type_two));
    let signature = BASE64URL.decode(good.rsplit('.').next().unwrap()).unwrap();
    add(
        "RS256 with a zero octet before",
        forge.with_signature(&[&[0], &signature[..]].concat()),
    );
    add(
        "RS256 with a zero octet behind",
        forge.with_signature(&[&signature[..], &[0]].concat()),
    );
    add("RS256 all zero", forge.with_signature(&vec![0; size]));
    add("RS256 all one", forge.with_signature(&vec![0xff; size]));
    let mut one = vec![0; size];
    one[size - 1] = 1;
    add("RS256 of 1", forge.with_signature(&one));
    let number = BigNum::from_slice(&signature).unwrap();
    let larger = (&number + rsa.n()).to_vec();
    add("RS256 beyond the modulus", forge.with_signature(&larger));
}

/// The pure check, as the server makes it.
struct Judge {
    keys: Vec<SignatureKey>,
    now: i64,
}

impl Judge {
    fn new(forges: &[&Forge]) -> Self {
        let keys = forges.iter().map(|forge| SignatureKey::new(&forge.jwk).unwrap());
        Self {
            keys: keys.collect(),
            now: NOW,
        }
    }

    fn judge(&self, token: &str) -> Result<AccessToken, VerificationError> {
        let expected = Expected {
            issuer: ISSUER,
            now: UnixTime(self.now),
            clock_skew: Seconds(60),
        };
        let token = verify(token, &expected, |kid| {
            let key = self
                .keys
                .iter()
                .find(|key| key.kid() == kid)
                .ok_or(VerificationError::UnknownKey)?;
            let max_token_ttl = Seconds(3_600);
            Ok(TrustedKey { key, max_token_ttl })
        })?;
        // As for a client that is registered for this type, which the server asks next.
        if token.token_type == TokenType::AtJwt {
            Ok(token)
        } else {
            Err(VerificationError::Type)
        }
    }
}

/// Every kind of forged, damaged and ambiguous token that RFC 8725 and published CVEs name.
#[test]
fn the_corpus_is_refused() {
    for alg in Algorithm::ALL {
        let forge = Forge::new(alg);
        let judge = Judge::new(&[&forge]);
        assert!(judge.judge(&forge.good()).is_ok());
        let corpus = corpus(&forge, "http://127.0.0.1:9");
        assert!(corpus.len() > 250, "{}", corpus.len());
        for (name, token) in &corpus {
            assert!(judge.judge(token).is_err(), "{name} was accepted: {token}");
        }
    }
}

/// What is right in unusual ways is accepted, so that the corpus does not pass because everything fails.
#[test]
fn what_is_right_is_accepted() {
    for alg in Algorithm::ALL {
        let forge = Forge::new(alg);
        let judge = Judge::new(&[&forge]);
        for (claim, value) in [
            ("aud", Some(r#"["https://a.example","https://api.example.com"]"#)),
            ("scope", None),
            ("exp", Some("1800003600")),
            ("iat", Some("1800000060")),
            ("nbf", Some("1800000060")),
            ("nbf", Some("0")),
            ("x", Some(r#"{"a":[{"b":1e300},{"b":"\u0000"}]}"#)),
        ] {
            let token = judge.judge(&forge.with_claim(claim, value));
            assert!(token.is_ok(), "{claim} {value:?}: {token:?}");
        }
        let token = judge.judge(&forge.good()).unwrap();
        assert_eq!(
            (token.kid, token.jti.as_str(), token.aud.len()),
            (forge.jwk.kid.clone(), "a-name", 1)
        );
    }
}

/// Each fault falls at its own step, and the edges are where they should be.
#[test]
fn each_fault_falls_at_its_own_step() {
    let forge = Forge::new(Algorithm::Es256);
    let mut judge = Judge::new(&[&forge]);
    let other = Forge::new(Algorithm::Es256);
    let step = |judge: &Judge, token: &str| judge.judge(token).unwrap_err().step();
    for (token, expected) in [
        ("a.b".to_owned(), VerificationStep::Form),
        (forge.with_header("crit", "[]"), VerificationStep::Form),
        (other.good(), VerificationStep::Key),
        (forge.with_header("alg", "\"RS256\""), VerificationStep::Algorithm),
        (forge.with_header("typ", "\"JWT\""), VerificationStep::Type),
        (forge.with_header("typ", "\"logout+jwt\""), VerificationStep::Type),
        (
            sign(&other.key, &forge.header(), &forge.claims.to_string()),
            VerificationStep::Signature,
        ),
        (forge.with_claim("jti", None), VerificationStep::Claims),
        (
            forge.with_claim("iss", Some("\"https://evil.example\"")),
            VerificationStep::Issuer,
        ),
        (forge.with_claim("exp", Some("1800003601")), VerificationStep::Dates),
        (forge.with_claim("iat", Some("1800000061")), VerificationStep::Dates),
        (forge.with_claim("nbf", Some("1800000061")), VerificationStep::Dates),
    ] {
        assert_eq!(step(&judge, &token), expected, "{token}");
    }
    judge.now = NOW + 599;
    assert!(judge.judge(&forge.good()).is_ok());
    judge.now = NOW + 600;
    assert_eq!(
        judge.judge(&forge.good()),
        Err(VerificationError::Expired(UnixTime(NOW + 600)))
    );
}

/// Every prefix, and every edit of one character.
#[test]
fn every_prefix_and_every_edit_of_a_good_token_is_refused() {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0é";
    for alg in Algorithm::ALL {
        let forge = Forge::new(alg);
        let judge = Judge::new(&[&forge]);
        let good = forge.good();
        let mut tried = 0;
        let mut refuse = |token: String| {
            tried += 1;
            assert!(token == good || judge.judge(&token).is_err(), "{token}");
        };
        for at in 0..good.len() {
            let (before, after) = good.split_at(at);
            refuse(before.to_owned());
            refuse(format!("{before}{}", &after[1..]));
            for character in ALPHABET.chars() {
                refuse(format!("{before}{character}{}", &after[1..]));
            }
            for character in ['A', '.', '='] {
                refuse(format!("{before}{character}{after}"));
            }
        }
        for character in ALPHABET.chars() {
            refuse(format!("{good}{character}"));
        }
        assert!(tried > 20_000, "{tried}");
    }
}

/// Xorshift: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// One to three changes: to the text, or to the octets behind it.
fn mutate(random: &mut Random, tokens: &[String]) -> String {
    let mut token = tokens[random.below(tokens.len())].clone();
    for _ in 0..=random.below(3) {
        token = match random.below(6) {
            0 => {
                let mut octets = token.into_bytes();
                if let Some(at) = octets.len().checked_sub(1).map(|last| random.below(last + 1)) {
                    octets[at] = u8::try_from(random.below(128)).unwrap();
                }
                String::from_utf8(octets).unwrap()
            }
            1 => token[..random.below(token.len() + 1)].to_owned(),
            2 => {
                let (from, to) = (random.below(token.len() + 1), random.below(token.len() + 1));
                format!("{token}{}", &token[from.min(to)..from.max(to)])
            }
            3 => {
                let other = &tokens[random.below(tokens.len())];
                let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
                let (mut own, theirs) = (parts(&token), parts(other));
                let at = random.below(own.len());
                own[at].clone_from(&theirs[random.below(theirs.len())]);
                own.join(".")
            }
            _ => {
                let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
                let at = random.below(parts.len());
                if let Ok(mut octets) = BASE64URL.decode(&parts[at])
                    && !octets.is_empty()
                {
                    let index = random.below(octets.len());
                    match random.below(3) {
                        0 => octets[index] ^= 1 << random.below(8),
                        1 => drop(octets.remove(index)),
                        _ => octets.insert(index, u8::try_from(random.below(256)).unwrap()),
                    }
                    parts[at] = BASE64URL.encode(octets);
                }
                parts.join(".")
            }
        };
    }
    token
}

/// Without the network.
#[test]
fn a_hundred_thousand_mutations_are_refused() {
    let (rsa, p256) = (Forge::new(Algorithm::Rs256), Forge::new(Algorithm::Es256));
    let judge = Judge::new(&[&rsa, &p256]);
    let tokens = [
        rsa.good(),
        p256.good(),
        rsa.with_claim("scope", None),
        p256.with_claim("scope", None),
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut tried = 0;
    while tried < 100_000 {
        let token = mutate(&mut random, &tokens);
        if !tokens.contains(&token) {
            tried += 1;
            assert!(judge.judge(&token).is_err(), "{token}");
        }
    }
}

/// The server as it is started, with a gateway that may ask about the tokens of `billing`.
struct Site {
    serving: Serving,
    http: reqwest::Client,
    secrets: [String; 2],
    forges: Vec<Forge>,
}

impl Site {
    async fn start(database: &TestDatabase) -> Self {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_DATABASE__URL", database.url.as_str()),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
        ];
        let folder = database.folder.path();
        let serving = Serving::start(folder, &variables, &["serve"]);
        let secrets = [("billing", "https://a.example"), ("gateway", "https://api.example.com")].map(|(id, serves)| {
            let common = [
                "--json",
                "clients",
                "create",
                "--id",
                id,
                "--grant",
                "client_credentials",
            ];
            let resources = ["--audience", "https://api.example.com", "--serves", serves];
            let output = run(folder, &variables, &[&common[..], &resources].concat());
            let created: Value = serde_json::from_slice(&output.stdout).unwrap();
            created["client_secret"].as_str().unwrap().to_owned()
        });
        let raw = Raw::open(database).await;
        let mut forges = Vec::new();
        for alg in Algorithm::ALL {
            let column = |name: &str| format!("SELECT {name} FROM signing_keys WHERE alg = '{alg}'");
            let jwk = PublicJwk::parse(&raw.texts(&column("jwk")).await[0]).unwrap();
            let sealed = raw.texts(&column("sealed")).await;
            let der = master_key().open(&binding(&jwk.kid, alg), &sealed[0]).unwrap();
            forges.push(Forge {
                key: PrivateKey::from_pkcs8_der(alg, &der).unwrap(),
                jwk,
                claims: claims("http://127.0.0.1:8080", Clock::system().read().wall.0),
            });
        }
        Self {
            serving,
            http: reqwest::Client::new(),
            secrets,
            forges,
        }
    }

    async fn is_active(&self, token: &str) -> bool {
        let [_, gateway] = &self.secrets;
        let request = self.http.post(format!("{}/oauth2/introspect", self.serving.url));
        let request = request.basic_auth("gateway", Some(gateway)).form(&[("token", token)]);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        match status {
            200 if text == r#"{"active":false}"# => false,
            200 => true,
            400..=499 => false,
            _ => panic!("{status} {text} for {token}"),
        }
    }
}

// Over the network, against the process, with its memory in view.
crate::on_both_databases!(the_server_answers_hostile_tokens_and_stays_small, |database| {
    let site = Site::start(&database).await;
    let bait = TcpListener::bind("127.0.0.1:0").unwrap();
    bait.set_nonblocking(true).unwrap();
    let address = format!("http://{}", bait.local_addr().unwrap());
    for forge in &site.forges {
        assert!(
            site.is_active(&forge.good()).await,
            "the forged token should be as good as the server's own"
        );
        for (name, token) in corpus(forge, &address) {
            assert!(!site.is_active(&token).await, "{name}: {token}");
        }
    }
    assert!(!site.is_active(&".".repeat(8 * 1024 * 1024)).await);
    let visit = bait.accept();
    assert!(
        visit.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "somebody visited the bait"
    );

    // Warm by now: what grows from here on is a leak.
    let before = site.serving.resident_bytes();
    let tokens: Vec<String> = site.forges.iter().map(Forge::good).collect();
    let mut random = Random(7);
    for token in &tokens {
        for at in 0..token.len() {
            assert!(!site.is_active(&token[..at]).await, "a prefix of {at}");
            let other = if &token[at..=at] == "A" { "B" } else { "A" };
            let edited = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert!(!site.is_active(&edited).await, "{edited}");
        }
    }
    for _ in 0..3_000 {
        let token = mutate(&mut random, &tokens);
        assert!(tokens.contains(&token) || !site.is_active(&token).await, "{token}");
    }
    let grown = site.serving.resident_bytes().saturating_sub(before);
    assert!(grown < 5 * 1024 * 1024, "the server grew by {grown} bytes");
    for token in &tokens {
        assert!(site.is_active(token).await, "it does not work any more");
    }
    let (status, log, _) = site.serving.stop();
    assert!(status.success());
    let text = log.join("\n");
    assert!(!text.contains("panicked") && !text.contains("ERROR"), "{text}");
    for token in &tokens {
        assert!(
            !text.contains(token.rsplit('.').next().unwrap()),
            "a token is in the log"
        );
    }
});
