//! `private_key_jwt` (RFC 7523): what proves a client, what does not, and that its own keys change without a lapse.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use keyround::clock::{Clock, Seconds};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::PublicJwk;
use keyround::jose::key::{PrivateKey, RsaBits};
use serde_json::{Value, json};

use crate::helpers::{TestApp, TestDatabase};
use crate::process::run;
use crate::rows::Raw;

const ISSUER: &str = "http://127.0.0.1:8080";
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A client's own key pair.
pub struct Pair {
    key: PrivateKey,
    /// Its public half.
    pub jwk: PublicJwk,
}

impl Pair {
    /// A fresh pair of this name.
    pub fn new(alg: Algorithm, kid: &str) -> Self {
        let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
        let jwk = PublicJwk {
            kid: kid.parse().unwrap(),
            ..key.public_jwk().unwrap()
        };
        Self { key, jwk }
    }

    fn header(&self) -> Value {
        json!({ "alg": self.jwk.alg.name(), "kid": self.jwk.kid })
    }

    /// A token of this header and these claims, as they stand.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims));
        let signature = self.key.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64URL.encode(signature))
    }

    /// A good assertion of `billing`, changed as the test wants.
    pub fn assertion(&self, app: &TestApp, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let (mut header, mut claims) = (self.header(), claims(app));
        change(&mut header, &mut claims);
        self.sign(&header.to_string(), &claims.to_string())
    }
}

fn claims(app: &TestApp) -> Value {
    let now = app.clock.read().wall.0;
    json!({
        "iss": "billing", "sub": "billing", "aud": ISSUER, "iat": now, "exp": now + 60,
        "jti": uuid::Uuid::new_v4().to_string(),
    })
}

/// Runs the program on this database: its exit code, what it printed, and what it complained of.
pub fn keyround(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", ISSUER),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
    ];
    let output = run(database.folder.path(), &variables, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn jwks_file(database: &TestDatabase, pairs: &[&Pair]) -> PathBuf {
    let keys: Vec<String> = pairs.iter().map(|pair| pair.jwk.to_json()).collect();
    written(database, &format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
}

fn written(database: &TestDatabase, text: &str) -> PathBuf {
    let path = database.folder.path().join("jwks.json");
    std::fs::write(&path, text).unwrap();
    path
}

pub fn create(database: &TestDatabase, pairs: &[&Pair]) -> Value {
    let file = jwks_file(database, pairs);
    let (code, out, err) = keyround(
        database,
        &[
            "clients",
            "create",
            "--id",
            "billing",
            "--grant",
            "client_credentials",
            "--audience",
            "https://api.example.com",
            "--jwks-file",
            file.to_str().unwrap(),
            "--json",
        ],
    );
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn set_keys(database: &TestDatabase, pairs: &[&Pair]) {
    let file = jwks_file(database, pairs);
    // It may have a secret.
    let set = ["clients", "set-keys", "billing", "--yes", "--jwks-file"];
    let (code, _, err) = keyround(database, &[&set[..], &[file.to_str().unwrap()]].concat());
    assert_eq!(code, 0, "{err}");
}

/// Asks with these parameters beside the grant.
async fn send(app: &TestApp, form: &[(&str, &str)]) -> (u16, Value) {
    let form = [&[("grant_type", "client_credentials")], form].concat();
    let url = format!("{}/oauth2/token", app.url);
    let answer = app.http.post(url).form(&form).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub async fn present(app: &TestApp, assertion: &str) -> (u16, Value) {
    send(app, &[("client_assertion_type", TYPE), ("client_assertion", assertion)]).await
}

/// Holds that the assertion is refused as `invalid_client` for this reason.
pub async fn refused(app: &TestApp, assertion: &str, reason: &str) {
    let (status, body) = present(app, assertion).await;
    let description = body["error_description"].as_str().unwrap_or("granted");
    assert_eq!(
        (status, &body["error"]),
        (401, &"invalid_client".into()),
        "{reason}: {body}"
    );
    assert!(description.contains(reason), "{description}, wanted: {reason}");
}

crate::on_both_databases!(a_good_assertion_proves_its_client_once_on_every_node, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let other = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let pairs = [Pair::new(Algorithm::Rs256, "r"), Pair::new(Algorithm::Es256, "e")];
    let created = create(&database, &[&pairs[0], &pairs[1]]);
    assert_eq!(
        (&created["keys"], created.get("client_secret")),
        (&json!(["r", "e"]), None)
    );

    for pair in &pairs {
        for aud in [json!(ISSUER), json!(format!("{ISSUER}/oauth2/token")), json!([ISSUER])] {
            for typ in [
                None,
                Some("JWT"),
                Some("client-authentication+jwt"),
                Some("application/jwt"),
            ] {
                let assertion = pair.assertion(&app, |header, claims| {
                    claims["aud"] = aud.clone();
                    if let Some(typ) = typ {
                        header["typ"] = typ.into();
                    }
                });
                let (status, body) = present(&app, &assertion).await;
                assert_eq!(status, 200, "{body}");
                for node in [&app, &other] {
                    refused(node, &assertion, "its jti was used before").await;
                }
            }
        }
    }
    // With header members that are not understood (RFC 7515 section 4), and times with a fraction (RFC 7519 section 2).
    for (member, value) in [
        ("x5t", json!("dGh1bWJwcmludA")),
        ("x5t#S256", json!("dGh1bWJwcmludA")),
        ("x5c", json!(["MIIB"])),
        ("cty", json!("JWT")),
        ("jwk", json!({ "kty": "RSA" })),
        ("jku", json!("https://client.example/jwks.json")),
        ("https://client.example/extension", json!({ "a": [1] })),
    ] {
        let assertion = pairs[0].assertion(&app, |header, claims| {
            header[member] = value.clone();
            for claim in ["exp", "iat"] {
                claims[claim] = json!(claims[claim].as_f64().unwrap() + 0.25);
            }
        });
        let (status, body) = present(&app, &assertion).await;
        assert_eq!(status, 200, "{member}: {body}");
    }
    // Without iat and kid, and with a client_id that agrees.
    let assertion = pairs[1].assertion(&app, |header, claims| {
        header.as_object_mut().unwrap().remove("kid");
        claims.as_object_mut().unwrap().remove("iat");
    });
    let form = [
        ("client_assertion_type", TYPE),
        ("client_assertion", assertion.as_str()),
        ("client_id", "billing"),
    ];
    assert_eq!(send(&app, &form).await.0, 200);

    // One jti, presented to both nodes at once, twenty times: one of each pair is granted.
    for _ in 0..20 {
        let assertion = pairs[1].assertion(&app, |_, _| {});
        let (here, there) = tokio::join!(present(&app, &assertion), present(&other, &assertion));
        let granted = [here.0, there.0].iter().filter(|&&status| status == 200).count();
        assert_eq!(granted, 1, "{here:?} {there:?}");
    }

    // No secret works, and none can be made.
    for secret in ["", "x"] {
        assert_eq!(
            app.ask("billing", secret, &[("grant_type", "client_credentials")])
                .await
                .status(),
            401
        );
    }
    let (code, _, err) = keyround(&database, &["clients", "rotate-secret", "billing"]);
    assert!(code == 1 && err.contains("has no secret"), "{err}");
    let (_, shown, _) = keyround(&database, &["clients", "show", "billing", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["keys"], &shown["valid_secrets"]),
        (&json!(["r", "e"]), &json!(0))
    );

    let assertion = pairs[1].assertion(&app, |_, _| {});
    keyround(&database, &["clients", "disable", "billing"]);
    app.until_clients_are_read_anew().await;
    refused(&app, &assertion, "unknown or disabled").await;
    keyround(&database, &["clients", "delete", "billing", "--yes"]);
    app.until_clients_are_read_anew().await;
    refused(&app, &assertion, "unknown or disabled").await;
    let raw = Raw::open(&database).await;
    assert_eq!(raw.number("SELECT count(*) FROM client_keys").await, 0);
});

crate::on_both_databases!(a_wrong_assertion_is_refused_with_its_reason, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let (pair, stranger) = (Pair::new(Algorithm::Es256, "e"), Pair::new(Algorithm::Es256, "e"));
    create(&database, &[&pair]);
    let now = app.clock.read().wall.0;

    let claims_cases: [(&str, Value, &str); 31] = [
        ("iss", "other".into(), "iss and sub"),
        ("sub", "other".into(), "unknown or disabled"),
        ("sub", "a b".into(), "no client id"),
        ("aud", "https://other.example".into(), "aud must be"),
        ("aud", format!("{ISSUER}/").into(), "aud must be"),
        ("aud", format!("{ISSUER}/oauth2/token/").into(), "aud must be"),
        ("aud", json!([ISSUER, "https://other.example"]), "aud must be"),
        ("aud", json!([]), "aud must be"),
        ("aud", json!({}), "its aud must be a string, or a list of strings"),
        ("exp", Value::Null, "its exp must be a number of seconds"),
        (
            "exp",
            (now + 60).to_string().into(),
            "its exp must be a number of seconds",
        ),
        ("exp", json!(1e300), "its exp must be a number of seconds"),
        (
            "exp",
            json!(9_223_372_036_854_775_808_u64),
            "its exp must be a number of seconds",
        ),
        (
            "exp",
            ((now + 60) * 1_000).into(),
            "its exp is in milliseconds; a time in a JWT is in seconds",
        ),
        (
            "iat",
            (now * 1_000).into(),
            "its iat is in milliseconds; a time in a JWT is in seconds",
        ),
        (
            "nbf",
            (now * 1_000_000).into(),
            "its nbf is in microseconds; a time in a JWT is in seconds",
        ),
        ("iss", json!(7), "its iss must be a string"),
        ("jti", json!(["a"]), "its jti must be a string"),
        ("exp", json!(9_223_372_036_854_775_807_i64), "longer than 5 minutes"),
        ("exp", json!(-9_223_372_036_854_775_808_i64), "expired"),
        ("exp", (now - 31).into(), "expired"),
        ("exp", (now + 400).into(), "longer than 5 minutes"),
        ("iat", (now + 3_600).into(), "iat lies in the future"),
        ("iat", (now - 300).into(), "longer than 5 minutes"),
        ("iat", Value::Null, "its iat must be a number of seconds"),
        ("iat", json!(1.5), "longer than 5 minutes"),
        ("iat", json!(-9_223_372_036_854_775_808_i64), "longer than 5 minutes"),
        ("nbf", (now + 3_600).into(), "nbf lies in the future"),
        ("nbf", "0".into(), "its nbf must be a number of seconds"),
        ("jti", "".into(), "jti must have"),
        ("jti", "j".repeat(257).into(), "jti must have"),
    ];
    for (claim, value, reason) in claims_cases {
        let assertion = pair.assertion(&app, |_, claims| claims[claim] = value.clone());
        refused(&app, &assertion, reason).await;
    }
    for claim in ["iss", "sub", "aud", "exp", "jti"] {
        let without = pair.assertion(&app, |_, claims| {
            claims.as_object_mut().unwrap().remove(claim);
        });
        refused(&app, &without, &format!("it has no {claim}; its claims must be")).await;
    }
    let twice = claims(&app)
        .to_string()
        .replace('{', &format!(r#"{{"exp":{},"#, now + 60));
    refused(&app, &pair.sign(&pair.header().to_string(), &twice), "it has exp twice").await;
    for no_claims in ["[]", "7", "{", "\"swordfish\""] {
        let assertion = pair.sign(&pair.header().to_string(), no_claims);
        refused(&app, &assertion, "its claims must be a JSON object").await;
    }

    for (member, value, reason) in [
        ("alg", json!("none"), "kid and alg"),
        ("alg", json!("HS256"), "kid and alg"),
        ("alg", json!("RS256"), "kid and alg"),
        ("kid", json!("other"), "kid and alg"),
        ("typ", json!("at+jwt"), "typ must be"),
        ("typ", json!(1), "must be strings"),
        ("kid", json!(null), "must be strings"),
        ("crit", json!(["exp"]), "crit or b64"),
        ("b64", json!(false), "crit or b64"),
    ] {
        let assertion = pair.assertion(&app, |header, _| header[member] = value.clone());
        refused(&app, &assertion, reason).await;
    }
    let header = pair.header().to_string().replace('{', r#"{"x5t":"a","x5t":"b","#);
    let claims_of_now = claims(&app).to_string();
    refused(&app, &pair.sign(&header, &claims_of_now), "every name occurs once").await;
    // A key that the header brings along is never used.
    let with_own_key = stranger.assertion(&app, |header, _| {
        header["jwk"] = serde_json::from_str(&stranger.jwk.to_json()).unwrap();
        header["jku"] = json!("https://attacker.example/jwks.json");
        header["x5u"] = json!("https://attacker.example/chain.pem");
    });
    refused(&app, &with_own_key, "signature").await;
    refused(&app, &stranger.assertion(&app, |_, _| {}), "signature").await;
    let good = pair.assertion(&app, |_, _| {});
    for broken in [&good[..good.len() - 4], "a.b", "a.b.c", "....", &"a.".repeat(3000)] {
        let (status, body) = present(&app, broken).await;
        assert_eq!((status, &body["error"]), (401, &"invalid_client".into()), "{broken}");
    }

    for (form, reason) in [
        (
            vec![("client_assertion", good.as_str())],
            "client_assertion_type must be",
        ),
        (
            vec![("client_assertion_type", "saml"), ("client_assertion", &good)],
            "client_assertion_type must be",
        ),
        (vec![("client_assertion_type", TYPE)], "client_assertion is missing"),
        (
            vec![
                ("client_assertion_type", TYPE),
                ("client_assertion", &good),
                ("client_secret", "s"),
            ],
            "twice",
        ),
        (
            vec![
                ("client_assertion_type", TYPE),
                ("client_assertion", &good),
                ("client_id", "other"),
            ],
            "differs",
        ),
        (
            vec![
                ("client_assertion_type", TYPE),
                ("client_assertion", &good),
                ("client_assertion", &good),
            ],
            "more than once",
        ),
    ] {
        let (status, body) = send(&app, &form).await;
        assert_eq!((status, &body["error"]), (400, &"invalid_request".into()), "{body}");
        assert!(body["error_description"].as_str().unwrap().contains(reason), "{body}");
    }
    // None of all these has used it up.
    assert_eq!(present(&app, &good).await.0, 200);
    let raw = Raw::open(&database).await;
    assert_eq!(raw.number("SELECT count(*) FROM client_assertions").await, 1);
    raw.execute(&format!("UPDATE client_assertions SET expires_at = {}", now - 3_600))
        .await;
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(raw.number("SELECT count(*) FROM client_assertions").await, 0, "pruned");
});

crate::on_both_databases!(a_client_changes_its_keys_without_a_lapse, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let (old, new) = (
        Pair::new(Algorithm::Rs256, "2026-10"),
        Pair::new(Algorithm::Es256, "2026-11"),
    );
    // A client that had a secret: from its first key on, the secret is refused.
    let secret = app.create_client("billing", None).await;
    assert_eq!(
        app.ask("billing", &secret, &[("grant_type", "client_credentials")])
            .await
            .status(),
        200
    );
    refused(&app, &old.assertion(&app, |_, _| {}), "has no keys").await;
    set_keys(&database, &[&old]);
    app.until_clients_are_read_anew().await;
    assert_eq!(
        app.ask("billing", &secret, &[("grant_type", "client_credentials")])
            .await
            .status(),
        401
    );
    assert_eq!(present(&app, &old.assertion(&app, |_, _| {})).await.0, 200);
    refused(&app, &new.assertion(&app, |_, _| {}), "kid and alg").await;

    set_keys(&database, &[&old, &new]);
    for pair in [&old, &new] {
        assert_eq!(present(&app, &pair.assertion(&app, |_, _| {})).await.0, 200);
    }
    set_keys(&database, &[&new]);
    assert_eq!(present(&app, &new.assertion(&app, |_, _| {})).await.0, 200);
    refused(&app, &old.assertion(&app, |_, _| {}), "kid and alg").await;
});

#[tokio::test]
async fn an_assertion_ends_with_its_leeway_by_our_clock() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let pair = Pair::new(Algorithm::Es256, "e");
    create(&database, &[&pair]);
    let (first, second) = (pair.assertion(&app, |_, _| {}), pair.assertion(&app, |_, _| {}));
    app.clock.advance(Seconds(89));
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(present(&app, &first).await.0, 200);
    app.clock.advance(Seconds(1));
    app.running.server.rotation.tick().await.unwrap();
    refused(&app, &second, "expired").await;
}

#[tokio::test]
async fn a_key_set_that_no_client_should_have_is_refused() {
    let database = TestDatabase::sqlite();
    let _app = TestApp::start(&database, &[]).await;
    let fixture = |name: &str| {
        std::fs::read_to_string(format!("{}/tests/fixtures/keys/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let public = fixture("p256.public.jwk");
    let kid = serde_json::from_str::<Value>(&public).unwrap()["kid"].clone();
    let other_key = Pair::new(Algorithm::Es256, kid.as_str().unwrap()).jwk.to_json();
    let ed25519 = r#"{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"ed"}"#;
    for (text, reason) in [
        ("x".to_owned(), "not JSON"),
        ("{}".to_owned(), "array 'keys'"),
        (r#"{"keys":[]}"#.to_owned(), "is empty"),
        (format!(r#"{{"keys":[{public},{other_key}]}}"#), "one kid"),
        (
            format!(r#"{{"keys":[{public},{}]}}"#, fixture("rsa.jwk")),
            "private key",
        ),
        (
            format!(r#"{{"keys":[{public},{{"kty":"oct","k":"AAAA"}}]}}"#),
            "key 2: it is a symmetric key ('kty' oct), a secret that both sides would have to share; publish the public half",
        ),
        (
            format!(r#"{{"keys":[{ed25519}]}}"#),
            "key 1 ('ed'): the key is of another kind",
        ),
        (fixture("rsa.spki.pem"), "it is PEM"),
        (format!(r#"{{"keys":[{}]}}"#, fixture("p256.jwk")), "private key"),
        (public.clone(), "one JWK"),
        (fixture("p256.jwk"), "it holds a private key"),
        (r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), "it is a symmetric key"),
    ] {
        let file = written(&database, &text);
        let (code, out, err) = keyround(
            &database,
            &["clients", "set-keys", "billing", "--jwks-file", file.to_str().unwrap()],
        );
        assert!(code == 2 && out.is_empty() && err.contains(reason), "{reason}: {err}");
    }
    let file = written(&database, &format!(r#"{{"keys":[{public}]}}"#));
    let (code, _, err) = keyround(
        &database,
        &["clients", "set-keys", "nobody", "--jwks-file", file.to_str().unwrap()],
    );
    assert!(code == 1 && err.contains("no client is called"), "{err}");
}

/// RFC 7517 section 5: what is not understood is ignored, and the command tells what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_used_are_left_out_of_a_set_and_named() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let pair = Pair::new(Algorithm::Es256, "my \"key\" \u{e9}");
    let public: Value = serde_json::from_str(&pair.jwk.to_json()).unwrap();
    let set = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "ed\u{1b}[31m" },
        { "kty": "RSA", "use": "enc", "n": "AA", "e": "AQAB", "kid": "for encryption" },
        public,
        public,
    ] });
    let file = written(&database, &set.to_string());
    let client = ["clients", "create", "--id", "billing", "--grant", "client_credentials"];
    let rest = [
        "--audience",
        "https://api.example.com",
        "--jwks-file",
        file.to_str().unwrap(),
    ];
    let create = [&client[..], &rest].concat();
    let (code, out, err) = keyround(&database, &[&create[..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let created: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(created["keys"], json!([pair.jwk.kid]));
    assert_eq!(created["left_out"][0]["kid"], "ed\u{1b}[31m");
    assert_eq!(
        created["left_out"][1]["reason"],
        "the JWK cannot be read: its 'use' must be sig"
    );
    let set_keys = ["clients", "set-keys", "billing", "--jwks-file", file.to_str().unwrap()];
    let (code, out, _) = keyround(&database, &set_keys);
    assert_eq!(code, 0);
    assert!(
        out.contains("left out       key 1 ('ed\\u{1b}[31m'): the key is of another kind"),
        "{out}"
    );
    assert!(
        out.contains("left out       key 2 ('for encryption')") && !out.contains('\u{1b}'),
        "{out}"
    );
    assert_eq!(present(&app, &pair.assertion(&app, |_, _| {})).await.0, 200);
    app.running.stop().await;
}
