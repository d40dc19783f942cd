//! What the database must not be believed: a revocation that it forgot, and a row that it lost.

use std::path::PathBuf;

use keyround::clock::{Clock, Seconds};
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::process::run;
use crate::rows::Raw;

fn ledger(database: &TestDatabase) -> PathBuf {
    database.folder.path().join("revoked-kids")
}

async fn start(database: &TestDatabase, with_ledger: bool) -> TestApp {
    let path = ledger(database);
    let settings = [("keys.ledger_file", path.to_str().unwrap())];
    let settings = if with_ledger { &settings[..] } else { &[] };
    TestApp::start_with_clock(database, settings, Clock::system()).await
}

fn kid_of(key_set: &Value, alg: &str) -> String {
    let keys = key_set["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["alg"] == alg).unwrap();
    key["kid"].as_str().unwrap().to_owned()
}

fn holds(key_set: &Value, kid: &str) -> bool {
    key_set["keys"].as_array().unwrap().iter().any(|key| key["kid"] == kid)
}

async fn get(app: &TestApp, path: &str) -> (u16, String) {
    let answer = app.http.get(format!("{}{path}", app.admin_url)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

crate::on_both_databases!(a_revocation_outlives_a_database_that_was_set_back, |database| {
    let app = start(&database, true).await;
    let kid = kid_of(&app.key_set().await, "RS256");
    let raw = Raw::open(&database).await;
    let sealed = raw
        .texts(&format!("SELECT sealed FROM signing_keys WHERE kid = '{kid}'"))
        .await
        .remove(0);
    let path = ledger(&database);
    // Somewhere else, where there is no ledger: the server learns of it from the database.
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let revoke = ["keys", "revoke", &kid, "--reason", "test", "--yes"];
    let output = run(database.folder.path(), &variables, &revoke);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{kid}\n"));
    assert_eq!(get(&app, "/readyz/issue").await.0, 200);
    app.running.stop().await;

    // The database as it was before the revocation.
    raw.execute(&format!(
        "DELETE FROM signing_keys WHERE alg = 'RS256' AND kid <> '{kid}'"
    ))
    .await;
    raw.execute(&format!(
        "UPDATE signing_keys SET revoked_at = NULL, sealed = '{sealed}' WHERE kid = '{kid}'"
    ))
    .await;
    let believing = start(&database, false).await;
    assert!(holds(&believing.key_set().await, &kid));
    believing.running.stop().await;

    let app = start(&database, true).await;
    let secret = app.create_client("service", None).await;
    let form = [("grant_type", "client_credentials")];
    assert!(!holds(&app.key_set().await, &kid));
    assert_eq!(app.ask("service", &secret, &form).await.status(), 503);
    let (status, body) = get(&app, "/readyz/issue").await;
    assert_eq!(status, 503);
    assert!(
        body.contains(&format!("these were revoked, but the database trusts them: {kid}")),
        "{body}"
    );
    assert!(get(&app, "/metrics").await.1.contains("keyround_distrusted_keys 1\n"));

    // As the log says: revoked again, and all is well.
    let output = run(database.folder.path(), &variables, &revoke);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(app.ask("service", &secret, &form).await.status(), 200);
    assert_eq!(get(&app, "/readyz/issue").await.0, 200);
    assert!(!holds(&app.key_set().await, &kid));
    app.running.stop().await;
});

crate::on_both_databases!(the_command_that_revokes_writes_the_ledger_too, |database| {
    let app = start(&database, false).await;
    let kid = kid_of(&app.key_set().await, "ES256");
    let folder = database.folder.path();
    let master_key = folder.join("master.key");
    let made = run(folder, &[], &["master-key", "generate", "master.key"]);
    assert!(made.status.success());
    std::fs::write(&master_key, "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=\n").unwrap();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", master_key.to_str().unwrap()),
    ];
    let output = run(
        folder,
        &variables,
        &["keys", "revoke", &kid, "--reason", "test", "--yes"],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(ledger(&database)).unwrap(), format!("{kid}\n"));
    app.running.stop().await;
});

crate::on_both_databases!(a_row_that_vanishes_is_no_revocation, |database| {
    let app = start(&database, true).await;
    let (before, secret) = (app.key_set().await, app.create_client("service", None).await);
    let kid = kid_of(&before, "ES256");
    let raw = Raw::open(&database).await;
    raw.execute("DELETE FROM signing_keys WHERE alg = 'ES256'").await;
    for _ in 0..3 {
        app.running.server.rotation.tick().await.unwrap();
        assert!(holds(&app.key_set().await, &kid));
    }
    let (status, body) = get(&app, "/readyz/issue").await;
    assert!(
        body.contains(&format!("gone before their time, and still published: {kid}")),
        "{body}"
    );
    assert_eq!(status, 200, "{body}");
    assert!(get(&app, "/metrics").await.1.contains("keyround_vanished_keys 1\n"));
    app.token("service", &secret).await;
    assert!(!ledger(&database).exists());
    app.running.stop().await;
});

#[tokio::test]
async fn a_vanished_key_leaves_when_its_last_token_is_gone_and_not_before() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let kid = kid_of(&app.key_set().await, "ES256");
    let raw = Raw::open(&database).await;
    raw.execute("DELETE FROM signing_keys WHERE alg = 'ES256'").await;
    app.running.server.rotation.tick().await.unwrap();
    // J + T + L + S with the defaults: 30s + 1h + 5m + 60s.
    let window = Seconds(30 + 3_600 + 300 + 60);
    app.pass(window - Seconds(1), Seconds(10)).await;
    assert!(holds(&app.key_set().await, &kid));
    app.pass(Seconds(1), Seconds(10)).await;
    assert!(!holds(&app.key_set().await, &kid));
    assert!(app.running.server.keyring.snapshot().vanished.is_empty());
    app.running.stop().await;
}
