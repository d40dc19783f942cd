//! `keyround token issue|inspect|deny` beside a server on the same database.

use std::process::Output;
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use keyround::jose::alg::Algorithm;
use keyround::oauth::client::Client;
use keyround::store::clients::ClientChange;
use serde_json::{Value, json};

use crate::client_assertions::Pair;
use crate::helpers::{TestApp, TestDatabase};
use crate::introspection::ask_until_known;
use crate::process::run;
use crate::rows::Raw;
use crate::token::{change, client, register};

fn keyround(database: &TestDatabase, arguments: &[&str]) -> Output {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        ("KEYROUND_KEYS__REPLICA_REFRESH", "2s"),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    run(database.folder.path(), &variables, arguments)
}

/// What a command that must succeed printed.
fn printed(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = keyround(database, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a command that must be refused printed, and its sentence.
fn refused(database: &TestDatabase, code: i32, arguments: &[&str]) -> (String, String) {
    let output = keyround(database, arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    (String::from_utf8(output.stdout).unwrap(), sentence)
}

async fn is_active(app: &TestApp, secret: &str, token: &str) -> bool {
    let answer = ask_until_known(app, "introspect", "billing", secret, token).await;
    assert_eq!(answer.status(), 200);
    answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
}

/// One audit record, by the account and the host that ran the command.
fn assert_noted(records: &[String], subject: &str, reason: &str) {
    let is_it = |record: &str| {
        record.starts_with(&format!("{subject}|command line (")) && record.ends_with(&format!(")|{reason}"))
    };
    assert!(records.len() == 1 && is_it(&records[0]), "{records:?}");
}

crate::on_both_databases!(a_token_is_issued_inspected_and_denied, |database| {
    let settings = [("keys.replica_refresh", "2s")];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let secret = register(&app, &client("billing")).await;
    let raw = Raw::open(&database).await;

    let token = printed(
        &database,
        &[
            "token", "issue", "--client", "billing", "--scope", "read", "--reason", "a test",
        ],
    );
    assert!(is_active(&app, &secret, &token).await, "the server does not accept it");
    let claims = crate::token::claims(&token);
    assert_eq!(
        (claims["scope"].as_str(), claims["sub"].as_str()),
        (Some("read"), Some("billing"))
    );
    let jti = claims["jti"].as_str().unwrap();
    let noted = "SELECT subject || '|' || actor || '|' || reason FROM audit WHERE event = 'token.issued'";
    assert_noted(&raw.texts(noted).await, "billing", &format!("a test (jti {jti})"));
    let answer: Value = serde_json::from_str(&printed(
        &database,
        &["--json", "token", "issue", "--client", "billing"],
    ))
    .unwrap();
    assert!(is_active(&app, &secret, answer["access_token"].as_str().unwrap()).await);
    assert_eq!(answer["expires_in"], 600);

    let accepted = printed(&database, &["token", "inspect", &token]);
    assert!(
        accepted.ends_with("the token is accepted") && !accepted.contains("refused"),
        "{accepted}"
    );

    // Two verifications by the server, written down within its next look.
    let kid = crate::token::header(&token)["kid"].as_str().unwrap().to_owned();
    let seen = "SELECT CAST(coalesce(sum(verifications), 0) AS BIGINT) FROM key_uses";
    while raw.number(seen).await < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    let shown: Value = serde_json::from_str(&printed(&database, &["--json", "keys", "show", &kid])).unwrap();
    assert_eq!(shown["verifications"], 2);
    assert!(shown["last_verified_at"].is_string());
    assert!(printed(&database, &["keys", "show", &kid]).contains("verifications  2 by introspection"));

    let exp = claims["exp"].to_string();
    let denied = ["token", "deny", jti, "--until", &exp, "--reason", "leaked"];
    let told = printed(&database, &denied);
    assert!(told.contains("is denied until") && told.contains("within 2s"), "{told}");
    assert!(printed(&database, &denied).contains("was denied already"));
    let bound = app.clock.read().monotonic + Duration::from_secs(2);
    // What counts is when it was asked: a busy machine may answer late.
    let mut asked = app.clock.read().monotonic;
    while is_active(&app, &secret, &token).await {
        assert!(asked < bound, "the server did not follow within 2s");
        sleep(Duration::from_millis(20)).await;
        asked = app.clock.read().monotonic;
    }
    let noted = "SELECT subject || '|' || actor || '|' || reason FROM audit WHERE event = 'token.denied'";
    assert_noted(&raw.texts(noted).await, jti, "leaked");
    let until = raw.number("SELECT denied_until FROM denied_tokens").await;
    assert_eq!(until, claims["exp"].as_i64().unwrap() + 300);
    let (steps, sentence) = refused(&database, 1, &["token", "inspect", &token]);
    assert!(sentence.contains("denied by its jti"), "{sentence}");
    assert!(
        steps.contains("denied     refused") && steps.contains("dates      ok"),
        "{steps}"
    );
    app.running.stop().await;
});

crate::on_both_databases!(inspect_says_why_a_token_is_refused, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = register(&app, &client("billing")).await;
    let token = app.token("billing", &secret).await;
    let (message, signature) = token.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{message}.{flipped}{}", &signature[1..]);
    for (token, step, reason) in [
        ("garbage", "form", "three parts"),
        (forged.as_str(), "signature", "does not verify"),
        (
            "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0Iiwia2lkIjoieCJ9.e30.AA",
            "key",
            "names no key",
        ),
    ] {
        let (steps, sentence) = refused(&database, 1, &["token", "inspect", token]);
        assert!(
            sentence.contains(&format!("step '{step}'")) && sentence.contains(reason),
            "{sentence}"
        );
        assert!(steps.contains("refused") && steps.contains("not reached"), "{steps}");
    }
    let (json, _) = refused(&database, 1, &["--json", "token", "inspect", &forged]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["accepted"], false);
    assert_eq!(json["unverified"]["claims"]["sub"], "billing");

    change(&app, "billing", ClientChange::Disable).await;
    let (_, sentence) = refused(&database, 1, &["token", "inspect", &token]);
    assert!(sentence.contains("its client is disabled"), "{sentence}");
    let (_, sentence) = refused(&database, 1, &["token", "issue", "--client", "billing"]);
    assert!(sentence.contains("is disabled"), "{sentence}");
    let (_, sentence) = refused(&database, 1, &["token", "issue", "--client", "nobody"]);
    assert!(sentence.contains("no client is called 'nobody'"), "{sentence}");
    app.running.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_or_a_token_that_makes_no_sense_is_refused() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let narrow = Client {
        scope: "read".parse().unwrap(),
        ..client("billing")
    };
    register(&app, &narrow).await;
    for (arguments, reason) in [
        (&["token", "deny", "a", "--until", "tomorrow"][..], "Unix seconds"),
        (&["token", "deny", "a"], "--until"),
        (&["token", "deny", "", "--until", "1"], "value"),
        (
            &["token", "deny", "a", "--until", "2020-01-01T00:00:00Z"],
            "give the token's exp",
        ),
        (
            &[
                "token",
                "deny",
                "a\n1 now key.revoked all",
                "--until",
                "2030-01-01T00:00:00Z",
            ],
            "no control characters",
        ),
        (
            &["token", "deny", "a\u{1b}[2J", "--until", "2030-01-01T00:00:00Z"],
            "no control characters",
        ),
        (
            &["token", "deny", &"a".repeat(257), "--until", "2030-01-01T00:00:00Z"],
            "1 to 256 octets",
        ),
        (
            &["token", "deny", "a", "--until", &i64::MAX.to_string()],
            "Unix seconds",
        ),
        (&["token", "deny", "a", "--until", "99999999999"], "ten years"),
        (
            &["token", "deny", "a", "--until", "1900000000000"],
            "did you mean 1900000000?",
        ),
        (&["token", "deny", "a", "--until", "2999-01-01T00:00:00Z"], "ten years"),
    ] {
        let (_, sentence) = refused(&database, 2, arguments);
        assert!(
            sentence.contains(reason) && !sentence.trim_end().contains(char::is_control),
            "{sentence}"
        );
        let (_, json) = refused(&database, 2, &[arguments, &["--json"]].concat());
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["exit_code"], 2);
        assert!(json["error"].as_str().unwrap().contains(reason), "{json}");
    }
    // What an earlier version took in does not forge a line of the list.
    let raw = Raw::open(&database).await;
    raw.execute(
        "INSERT INTO audit (event, subject, happened_at, noted_at, actor, reason) \
         VALUES ('token.denied', 'a' || char(10) || '999 forged', 1, 1, 'test', 'test')",
    )
    .await;
    raw.close().await;
    let listed = printed(&database, &["audit", "list"]);
    assert!(
        listed.contains("999 forged") && !listed.lines().any(|line| line.starts_with("999")),
        "{listed}"
    );
    let later = printed(
        &database,
        &["token", "deny", "-a", "--until", "2030-01-01T00:00:00+01:00"],
    );
    assert!(later.contains("2029-12-31T23:05:00Z"), "{later}");
    let wide = ["token", "issue", "--client", "billing", "--scope", "write"];
    assert!(refused(&database, 1, &wide).1.contains("scope"));
    app.running.stop().await;

    let empty = TestDatabase::sqlite();
    let (_, sentence) = refused(&empty, 1, &["token", "issue", "--client", "billing"]);
    assert!(sentence.contains("there is no database"), "{sentence}");
}

/// RFC 7517 section 5: a set of others holds what is not for us, and members that we do not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_reads_the_key_sets_of_others() {
    let database = TestDatabase::sqlite();
    let folder = database.folder.path();
    let pair = Pair::new(Algorithm::Es256, "my key");
    let mut key: Value = serde_json::from_str(&pair.jwk.to_json()).unwrap();
    key["x5t#S256"] = "AA".into();
    key["ext"] = true.into();
    for name in ["use", "alg"] {
        key.as_object_mut().unwrap().remove(name);
    }
    let ed25519 = json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "ed" });
    std::fs::write(
        folder.join("set.json"),
        json!({ "keys": [ed25519, key], "a": 1 }).to_string(),
    )
    .unwrap();
    std::fs::write(folder.join("none.json"), json!({ "keys": [ed25519] }).to_string()).unwrap();
    let now = Clock::system().read().wall.0;
    let dated = |kid: &str, claims: &Value| {
        let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": kid }).to_string();
        std::fs::write(folder.join("token"), pair.sign(&header, &claims.to_string())).unwrap();
    };
    let token = |kid: &str| dated(kid, &json!({ "iat": now, "exp": now + 900 }));
    let verify = |set: &'static str| ["token", "verify", "--key-set", set, "token"];
    token("my key");
    let told = printed(&database, &verify("set.json"));
    assert!(
        told.contains("left out of the key set: key 1 ('ed'): the key is of another kind"),
        "{told}"
    );
    assert!(told.contains("the token is valid"), "{told}");
    token("ed");
    let (_, sentence) = refused(&database, 1, &verify("set.json"));
    assert!(
        sentence.contains("of the key set is left out key 1 ('ed')"),
        "{sentence}"
    );
    let (_, sentence) = refused(&database, 2, &verify("none.json"));
    assert!(sentence.contains("no key that can be used: key 1 ('ed')"), "{sentence}");

    // Its dates, as a server of ours checks them.
    for (claims, why) in [
        (json!({ "iat": now + 600, "exp": now + 900 }), "its iat is"),
        (json!({ "iat": now, "nbf": now + 600, "exp": now + 900 }), "its nbf is"),
        (
            json!({ "iat": now, "exp": now + 3_601 }),
            "it lives 1h1s, but tokens.max_token_ttl is 1h",
        ),
        (
            json!({ "iat": now - 900_000_000, "exp": now + 900 }),
            "but tokens.max_token_ttl is 1h",
        ),
        (json!({ "iat": now + 50, "exp": now + 40 }), "it lives -"),
        (json!({ "exp": now + 900 }), "iat is missing"),
        (
            json!({ "iat": "now", "exp": now + 900 }),
            "iat is missing or no integer",
        ),
        (
            json!({ "iat": now, "nbf": "now", "exp": now + 900 }),
            "nbf is missing or no integer",
        ),
        (json!({ "iat": now }), "exp is missing"),
        (json!({ "iat": now - 900, "exp": now - 1 }), "it expired"),
    ] {
        dated("my key", &claims);
        let (_, sentence) = refused(&database, 1, &verify("set.json"));
        assert!(sentence.contains(why), "{claims}: {sentence}");
    }
    dated("my key", &json!({ "iat": now + 30, "nbf": now, "exp": now + 900 }));
    assert!(printed(&database, &verify("set.json")).contains("the token is valid"));
    dated("my key", &json!({ "iat": now, "exp": now + 7_200 }));
    let longer = [&["--set", "tokens.max_token_ttl=2h"][..], &verify("set.json")].concat();
    assert!(printed(&database, &longer).contains("the token is valid"));
}
