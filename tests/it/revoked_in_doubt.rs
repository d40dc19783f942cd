//! Revocations while the clock is in doubt, as it is after every stop: the real binary and the server, on the rows that a stop of thirteen
//! minutes leaves.

use keyround::clock::{Clock, UnixTime};
use keyround::keyring::text_of;
use keyround::keys::trusted_time::Doubt;
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::process::run;
use crate::rows::Raw;

const STOP: i64 = 780;

/// A database whose last node stopped thirteen minutes ago, with an ES256 and an RS256 key; the kid of the ES256 one.
async fn stopped(database: &TestDatabase) -> (Raw, String) {
    let app = TestApp::start_with_clock(database, &[], Clock::system()).await;
    let raw = Raw::open(database).await;
    app.running.stop().await;
    for sql in [
        format!("UPDATE clock SET reached = reached - {STOP}, confirmed = confirmed - {STOP}"),
        format!("UPDATE signing_keys SET published_at = published_at - {STOP}, activates_at = activates_at - {STOP}"),
    ] {
        raw.execute(&sql).await;
    }
    let kid = raw
        .texts("SELECT kid FROM signing_keys WHERE alg = 'ES256'")
        .await
        .remove(0);
    (raw, kid)
}

fn keyround(database: &TestDatabase, arguments: &[&str]) -> String {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let output = run(database.folder.path(), &variables, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(database: &TestDatabase, arguments: &[&str]) -> Value {
    serde_json::from_str(&keyround(database, &[arguments, &["--json"]].concat())).unwrap()
}

fn time(value: &Value) -> UnixTime {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"))
        .parse()
        .unwrap()
}

crate::on_both_databases!(no_revocation_is_told_earlier_than_it_was, |database| {
    let (_, kid) = stopped(&database).await;
    let revoke = ["keys", "revoke", &kid, "--reason", "it leaked", "--yes"];
    let before = Clock::system().read().wall;
    let foreseen = json(&database, &["keys", "revoke", &kid, "--dry-run"]);
    let first = json(&database, &revoke);
    let first = &first["revocations"][0];
    let (revoked_at, until) = (time(&first["revoked_at"]), time(&first["accepted_until"]));
    assert!(revoked_at >= before && until > revoked_at, "{first}");
    let window = until - revoked_at;
    assert!(
        time(&foreseen["revocations"][0]["accepted_until"]) >= before + window,
        "{foreseen}"
    );

    let again = json(&database, &revoke);
    let again = &again["revocations"][0];
    assert_eq!(
        (time(&again["revoked_at"]), time(&again["accepted_until"])),
        (revoked_at, until)
    );
    let told = keyround(&database, &revoke);
    assert!(
        told.contains(&format!("ES256 key {kid} was revoked already, {revoked_at} ("))
            && told.contains(&format!("may still accept a revoked key until {until} (")),
        "{told}"
    );
    let listed = json(&database, &["keys", "list"]);
    let listed = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == *kid)
        .unwrap();
    assert_eq!(time(&listed["revoked_at"]), revoked_at);
    assert_eq!(
        time(&json(&database, &["keys", "show", &kid])["revoked_at"]),
        revoked_at
    );
    for command in [&["keys", "list"][..], &["keys", "show", &kid]] {
        let told = keyround(&database, command);
        assert!(told.contains(&format!("{revoked_at} (")), "{told}");
    }

    // What the doubt ends with leaves it as it was told.
    keyround(&database, &["clock", "confirm", "--reason", "it is right", "--yes"]);
    let after = json(&database, &["keys", "show", &kid]);
    assert_eq!(time(&after["revoked_at"]), revoked_at);
});

crate::on_both_databases!(every_algorithm_gets_one_new_key, |database| {
    let (raw, kid) = stopped(&database).await;
    let before = raw.number("SELECT count(*) FROM signing_keys").await;
    let revoke = [
        "keys",
        "revoke",
        &kid,
        "--all-algorithms",
        "--reason",
        "the host leaked",
        "--yes",
    ];
    for round in 0..2 {
        let done = json(&database, &revoke);
        let done = done["revocations"].as_array().unwrap().clone();
        assert_eq!(done.len(), 2, "{done:?}");
        let revoked: Vec<&Value> = done.iter().flat_map(|one| one["revoked"].as_array().unwrap()).collect();
        for one in &done {
            assert!(!revoked.contains(&&one["signs_now"]), "round {round}: {done:?}");
        }
        assert_eq!(
            raw.number("SELECT count(*) FROM signing_keys").await,
            before + 2,
            "round {round}: {done:?}"
        );
        assert_eq!(
            raw.number("SELECT count(*) FROM signing_keys WHERE revoked_at IS NULL")
                .await,
            2
        );
    }
});

crate::on_both_databases!(a_lost_revocation_is_written_again_in_doubt, |database| {
    let (raw, kid) = stopped(&database).await;
    let ledger = database.folder.path().join("revoked-kids");
    crate::helpers::private_file(&ledger, text_of([&kid.parse().unwrap()]));
    let settings = [("keys.ledger_file", ledger.to_str().unwrap())];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    app.running.server.rotation.tick().await.unwrap();
    let trusted = *app.running.server.keyring.snapshot().trusted();
    assert!(matches!(trusted.doubt(), Some(Doubt::Unconfirmed(_))), "{trusted:?}");
    let revoked = format!("SELECT count(*) FROM signing_keys WHERE kid = '{kid}' AND revoked_at IS NOT NULL");
    assert_eq!(raw.number(&revoked).await, 1);
    let noted = format!("SELECT count(*) FROM audit WHERE event = 'key.revocation_restored' AND subject = '{kid}'");
    assert_eq!(raw.number(&noted).await, 1);
    // Another key signs at once, and once.
    app.running.server.rotation.tick().await.unwrap();
    let signers = "SELECT count(*) FROM signing_keys WHERE alg = 'ES256' AND revoked_at IS NULL AND sealed IS NOT NULL";
    assert_eq!(raw.number(signers).await, 1);
    let secret = app.create_client("service", None).await;
    let form = [("grant_type", "client_credentials")];
    assert_eq!(app.ask("service", &secret, &form).await.status(), 200);
    app.running.stop().await;
});
