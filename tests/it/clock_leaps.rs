//! The time that keys go by leaps when a doubt ends: no token that was signed in doubt is refused, and nothing is forgotten. The
//! commands about the clock, by the real binary.

use keyround::app::Foundation;
use keyround::clock::{Clock, Seconds};
use keyround::jose::jwk::Kid;
use keyround::keyring::{Inactive, Keyring};
use keyround::keys::trusted_time::{Doubt, patience};
use serde_json::Value;

use crate::helpers::{START, TestApp, TestDatabase, config};
use crate::introspection::ask;
use crate::process::run;
use crate::rows::Raw;
use crate::token::{client, register};

/// A new key every 100 seconds, published 40 s ahead; a key that was superseded stays for 47 s.
const SHORT: [(&str, &str); 12] = [
    ("keys.algorithms", "ES256"),
    ("tokens.default_algorithm", "ES256"),
    ("keys.rotation_period", "100s"),
    ("keys.prepublish", "40s"),
    ("keys.verifier_cache", "20s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.replica_refresh", "5s"),
    ("keys.snapshot_max_age", "10s"),
    ("keys.clock_skew", "4s"),
    ("keys.verifier_leeway", "3s"),
    ("tokens.access_token_ttl", "30s"),
    ("tokens.max_token_ttl", "30s"),
];

fn doubt(app: &TestApp) -> Option<Doubt> {
    app.running.server.keyring.snapshot().trusted().doubt()
}

async fn tick(app: &TestApp) {
    app.running.server.rotation.tick().await.unwrap();
}

async fn is_active(app: &TestApp, secret: &str, token: &str) -> bool {
    let answer = ask(app, "introspect", "billing", secret, token).await;
    answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
}

async fn serves(app: &TestApp, kid: &str) -> bool {
    let set = app.key_set().await;
    set["keys"].as_array().unwrap().iter().any(|key| key["kid"] == kid)
}

fn kid_of(token: &str) -> String {
    let header = token.split('.').next().unwrap();
    let json = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()["kid"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Two nodes on one file. One stands still while the other starts, finds an old record and signs by it. The first one goes on and
/// confirms by its record that the second one is late: its tokens verify, and a denial that it took stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_beside_a_node_that_stands_still_signs_what_verifies_afterwards() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &SHORT, Clock::manual(START)).await;
    let billing = register(&app, &client("billing")).await;
    // The next key is published, and signs in ten seconds.
    app.pass(Seconds(86), Seconds(2)).await;
    let first: Kid = kid_of(&app.token("billing", &billing).await).parse().unwrap();
    let clock = Clock::manual(app.clock.read().wall);
    app.running.stop().await;
    let rotator = Foundation::open(&config(&database, &SHORT), clock.clone())
        .await
        .unwrap()
        .rotator;
    let (db, master_key, policy) = (rotator.db.clone(), rotator.master_key.clone(), rotator.policy.clone());
    let still = Keyring::load(db, master_key, policy, clock.clone(), None)
        .await
        .unwrap();
    let issuer = "http://127.0.0.1:8080";
    still.refresh().await.unwrap();

    let stood_for = Seconds(200);
    let started = TestApp::start_with_clock(&database, &SHORT, Clock::manual(clock.read().wall + stood_for)).await;
    assert!(
        matches!(doubt(&started), Some(Doubt::Unconfirmed(_))),
        "{:?}",
        doubt(&started)
    );
    let token = started.token("billing", &billing).await;
    let denied = started.token("billing", &billing).await;
    assert_eq!(
        (kid_of(&token), kid_of(&denied)),
        (first.to_string(), first.to_string())
    );
    assert_eq!(
        ask(&started, "revoke", "billing", &billing, &denied).await.status(),
        200
    );

    clock.advance(stood_for);
    for second in 0..30 {
        let snapshot = still.refresh().await.unwrap();
        assert_eq!(snapshot.trusted().doubt(), None);
        let reading = clock.read();
        assert!(
            still.verify(&token, issuer, reading).unwrap().is_ok(),
            "after {second} s"
        );
        assert_eq!(
            still.verify(&denied, issuer, reading).unwrap().err(),
            Some(Inactive::Denied),
            "after {second} s"
        );
        rotator.apply_due(&snapshot.keys, snapshot.trusted()).await.unwrap();
        tick(&started).await;
        assert_eq!(doubt(&started), None, "its peer's record confirms its clock");
        assert!(
            snapshot.key_set.contains(&first) && serves(&started, first.as_str()).await,
            "after {second} s"
        );
        assert!(is_active(&started, &billing, &token).await, "after {second} s");
        assert!(!is_active(&started, &billing, &denied).await, "after {second} s");
        clock.advance(Seconds(1));
        started.clock.advance(Seconds(1));
    }
    // A window later it leaves at last.
    clock.advance(Seconds(40));
    started.pass(Seconds(40), Seconds(2)).await;
    assert!(!still.refresh().await.unwrap().key_set.contains(&first));
    assert!(!serves(&started, first.as_str()).await);
    started.running.stop().await;
}

/// Without the record of its peer a node that started waits for its patience: its tokens verify across the step too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_confirms_itself_refuses_no_token() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &SHORT, Clock::manual(START)).await;
    let billing = register(&app, &client("billing")).await;
    app.pass(Seconds(90), Seconds(2)).await;
    app.running.stop().await;
    let app = TestApp::start_with_clock(&database, &SHORT, Clock::manual(START + Seconds(5_000))).await;
    let server = &app.running.server;
    let wait = patience(&server.keyring.snapshot().keys, server.keyring.policy());
    let mut tokens = Vec::new();
    for second in 0..wait.0 + 60 {
        if second % 3 == 0 {
            tokens.push((second, app.token("billing", &billing).await));
        }
        tokens.retain(|(signed, _)| second - signed < 30);
        for (signed, token) in &tokens {
            assert!(is_active(&app, &billing, token).await, "{signed} after {second} s");
            assert!(serves(&app, &kid_of(token)).await, "{signed} after {second} s");
        }
        app.clock.advance(Seconds(1));
        tick(&app).await;
    }
    assert_eq!(doubt(&app), None);
    app.running.stop().await;
}

fn keyround(database: &TestDatabase, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let output = run(database.folder.path(), &variables, &[arguments, &["--json"]].concat());
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

crate::on_both_databases!(the_clock_commands_work_and_nothing_is_pruned_in_doubt, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let raw = Raw::open(&database).await;
    app.running.stop().await;
    assert_eq!(keyround(&database, &["clock", "check"]).0, Some(0));
    let (code, _, error) = keyround(&database, &["clock", "confirm", "--reason", "all is well", "--yes"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("not in doubt"), "{error}");

    // As if every node had run two hours ahead until now.
    for sql in [
        "UPDATE clock SET reached = reached + 7200, confirmed = confirmed + 7200",
        "UPDATE clock SET restored = reached - 60",
        "UPDATE signing_keys SET published_at = published_at + 7200, activates_at = activates_at + 7200",
        "INSERT INTO nodes (node_id, seen_at, version, policy_fingerprint, clock_offset, master_keys) \
         VALUES ('gone', 1, 1, '', 0, '')",
    ] {
        raw.execute(sql).await;
    }
    let activation = "SELECT MAX(activates_at) FROM signing_keys";
    let ahead = raw.number(activation).await;
    let (code, check, _) = keyround(&database, &["clock", "check"]);
    assert_eq!((code, &check["in_doubt"]), (Some(1), &Value::Bool(true)), "{check}");
    let off_by = check["off_by_seconds"].as_i64().unwrap();
    assert!((-7200..-7000).contains(&off_by), "{off_by}");

    let (code, _, error) = keyround(&database, &["db", "prune"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("the clock is in doubt, so nothing was deleted"),
        "{error}"
    );
    assert_eq!(raw.number("SELECT count(*) FROM nodes").await, 1);

    // Nobody is there to ask.
    let (code, _, error) = keyround(&database, &["clock", "confirm", "--reason", "it was set"]);
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(raw.number(activation).await, ahead);

    let (code, confirmed, error) = keyround(&database, &["clock", "confirm", "--reason", "it was set", "--yes"]);
    assert_eq!(
        (code, &confirmed["confirmed"]),
        (Some(0), &Value::Bool(true)),
        "{error}"
    );
    // Whoever signed by the clock that was ahead dated its tokens in the future.
    let told = &confirmed["dated_ahead"];
    let signers = raw.texts("SELECT kid FROM signing_keys ORDER BY kid").await;
    let mut named: Vec<&str> = told["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["kid"].as_str().unwrap())
        .collect();
    named.sort_unstable();
    assert_eq!(named, signers, "{confirmed}");
    assert!(
        told["issued_until"].as_str().unwrap() > confirmed["time"].as_str().unwrap(),
        "{confirmed}"
    );
    let moved = raw.number(activation).await - ahead;
    assert!((-7200..-7000).contains(&moved), "{moved}");
    assert_eq!(raw.number("SELECT stepped FROM clock").await, moved);
    // A restore by the clock that was ahead must not refuse the sessions of the time until it is reached.
    let restored = raw.number("SELECT restored - reached FROM clock").await;
    assert!((-300..0).contains(&restored), "{restored}");
    let noted = "SELECT count(*) FROM audit WHERE event = 'clock.confirmed' AND reason LIKE 'it was set%'";
    assert_eq!(raw.number(noted).await, 1);
    assert_eq!(keyround(&database, &["clock", "check"]).0, Some(0));
    assert_eq!(keyround(&database, &["db", "prune"]).0, Some(0));
    assert_eq!(raw.number("SELECT count(*) FROM nodes").await, 0);
});
