//! A database that is no longer the primary, and one that lost its last seconds: what a node may still say.

use std::time::Duration;

use keyround::clock::{Clock, Seconds, sleep};
use keyround::oauth::client::ClientId;
use keyround::registry::Registry;
use keyround::store::nodes::Heartbeat;
use serde_json::Value;

use crate::helpers::{START, TestApp, TestDatabase};
use crate::introspection::ask;
use crate::process::run;
use crate::rows::Raw;

const GRANT: (&str, &str) = ("grant_type", "client_credentials");

/// A node that signs with a snapshot of up to 3 s.
const QUICK: &[(&str, &str)] = &[
    ("keys.rotation_period", "1h"),
    ("keys.prepublish", "5m"),
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "3s"),
    ("keys.clock_skew", "2s"),
    ("tokens.access_token_ttl", "1m"),
    ("tokens.max_token_ttl", "1m"),
];

/// Makes writes to this table fail as they do on a standby, while reads succeed.
async fn refuse_writes(raw: &Raw, table: &str) {
    match raw {
        Raw::Sqlite(_) => {
            for event in ["INSERT", "UPDATE"] {
                raw.execute(&format!(
                    "CREATE TRIGGER refuse_{event}_{table} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'read-only'); END"
                ))
                .await;
            }
        }
        Raw::Postgres(_) => {
            raw.execute(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 RAISE EXCEPTION 'cannot execute it in a read-only transaction' USING ERRCODE = '25006'; END $$",
            )
            .await;
            raw.execute(&format!(
                "CREATE TRIGGER refuse_{table} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
            ))
            .await;
        }
    }
}

async fn accept_writes(raw: &Raw, table: &str) {
    match raw {
        Raw::Sqlite(_) => {
            for event in ["INSERT", "UPDATE"] {
                raw.execute(&format!("DROP TRIGGER refuse_{event}_{table}")).await;
            }
        }
        Raw::Postgres(_) => {
            raw.execute(&format!("DROP TRIGGER refuse_{table} ON {table}")).await;
        }
    }
}

/// The status of a health endpoint, and which of its checks fail.
async fn health(app: &TestApp, path: &str) -> (u16, Vec<String>) {
    let answer = app.http.get(format!("{}{path}", app.admin_url)).send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let checks = body["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["ok"] == false);
    (
        status,
        failed.map(|check| check["name"].as_str().unwrap().to_owned()).collect(),
    )
}

fn revoke_key(database: &TestDatabase, kid: &str) -> std::process::Output {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_KEYS__REPLICA_REFRESH", "1s"),
        ("KEYROUND_KEYS__SNAPSHOT_MAX_AGE", "5m"),
    ];
    let arguments = ["keys", "revoke", kid, "--reason", "test", "--yes", "--json"];
    run(database.folder.path(), &variables, &arguments)
}

crate::on_both_databases!(reads_without_writes_are_no_look, |database| {
    let app = TestApp::start_with_clock(&database, QUICK, Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    let token = app.token("billing", &secret).await;
    let kids = app.key_set().await;
    let raw = Raw::open(&database).await;
    refuse_writes(&raw, "nodes").await;
    let before = app.running.server.keyring.snapshot();
    assert!(app.running.server.keyring.refresh().await.is_err());
    for _ in 0..100 {
        if app.ask("billing", &secret, &[GRANT]).await.status() == 503 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    // It signs nothing, says nothing about tokens, and goes on publishing.
    assert_eq!(app.ask("billing", &secret, &[GRANT]).await.status(), 503);
    for path in ["introspect", "revoke"] {
        assert_eq!(
            ask(&app, path, "billing", &secret, &token).await.status(),
            503,
            "{path}"
        );
    }
    let (status, failed) = health(&app, "/readyz/issue").await;
    assert_eq!(status, 503);
    assert!(failed.contains(&"snapshot".to_owned()), "{failed:?}");
    assert_eq!(app.key_set().await, kids);
    let age = |snapshot: &keyround::keyring::Snapshot| snapshot.age(app.clock.read());
    assert_eq!(age(&app.running.server.keyring.snapshot()), age(&before));

    accept_writes(&raw, "nodes").await;
    app.running.server.rotation.tick().await.unwrap();
    app.token("billing", &secret).await;
    assert_eq!(health(&app, "/readyz/issue").await, (200, Vec::new()));
    raw.close().await;
    app.running.stop().await;
});

crate::on_both_databases!(a_revocation_names_each_node_that_may_not_know_of_it, |database| {
    let app = TestApp::start_with_clock(&database, QUICK, Clock::system()).await;
    let db = database.open().await;
    let now = db.now().await.unwrap();
    let node = |node_id: &str, age: i64, version: i64, change_id: Option<&str>| Heartbeat {
        node_id: node_id.to_owned(),
        seen_at: (now - Seconds(age)).0,
        version,
        change_id: change_id.map(str::to_owned),
        policy_fingerprint: String::new(),
        clock_offset: 0,
        master_keys: String::new(),
    };
    // One serves a later version that the database lost; one has been silent for a while; one has signed off.
    for heartbeat in [
        node("lost", 0, 1_000, Some("00000000000000000000000000000001")),
        node("silent", 600, 1, Some("00000000000000000000000000000002")),
        node("earlier-release", 0, 1_000, None),
        node("stopped", 1, 1, None),
    ] {
        db.beat(&heartbeat).await.unwrap();
    }
    db.leave("stopped").await.unwrap();
    let kid = app.key_set().await["keys"][0]["kid"].as_str().unwrap().to_owned();
    let output = revoke_key(&database, &kid);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let unconfirmed: Vec<_> = said["nodes"]["unconfirmed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["node_id"].as_str().unwrap(), node["living"].as_bool().unwrap()))
        .collect();
    assert_eq!(unconfirmed, [("lost", true), ("silent", false)], "{said}");
    assert_eq!(said["nodes"]["living"], 3);
    app.running.stop().await;
});

/// The table of clients and the name of its last change, to be set back to.
struct Clients {
    change: String,
    count: i64,
    digest: String,
}

impl Clients {
    async fn read(raw: &Raw) -> Self {
        Self {
            change: raw.texts("SELECT change_id FROM client_changes").await.remove(0),
            count: raw.number("SELECT changes FROM client_changes").await,
            digest: raw.texts("SELECT secret_digest FROM clients").await.remove(0),
        }
    }

    async fn put_back(&self, raw: &Raw) {
        raw.execute(&format!(
            "UPDATE clients SET secret_digest = '{}', previous_secret_digest = NULL",
            self.digest
        ))
        .await;
        raw.execute(&format!(
            "UPDATE client_changes SET changes = {}, change_id = '{}'",
            self.count, self.change
        ))
        .await;
    }
}

// A lost `rotate-secret`, then `disable`: the same number of changes, and another row.
crate::on_both_databases!(a_lost_client_change_is_not_mistaken_for_the_next_one, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.create_client("billing", None).await;
    let raw = Raw::open(&database).await;
    let clock = Clock::manual(START);
    let registry = Registry::new(database.open().await, clock.clone());
    let id: ClientId = "billing".parse().unwrap();
    let find = async || {
        clock.advance(Seconds(1));
        registry.find(&id).await.unwrap().unwrap()
    };
    let before = Clients::read(&raw).await;
    let first = find().await.secrets.current.clone();
    raw.execute("UPDATE clients SET secret_digest = 'lost'").await;
    assert_eq!(find().await.secrets.current, "lost");

    before.put_back(&raw).await;
    assert_eq!(
        find().await.secrets.current,
        first,
        "set back to what was cached under that name"
    );

    raw.execute("UPDATE clients SET secret_digest = 'lost'").await;
    assert_eq!(find().await.secrets.current, "lost");
    before.put_back(&raw).await;
    raw.execute("UPDATE clients SET disabled_at = 1").await;
    let disabled = find().await;
    assert_eq!(disabled.client.disabled_at.map(|at| at.0), Some(1));
    assert_eq!(disabled.secrets.current, first);
    raw.close().await;
    app.running.stop().await;
});

/// The connections of this database's servers.
async fn connections(raw: &Raw) -> Vec<String> {
    raw.texts(
        "SELECT CAST(pid AS TEXT) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
         AND backend_type = 'client backend' ORDER BY pid",
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_a_standby_ends_every_connection() {
    let database = TestDatabase::postgres().await;
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    let token = app.token("billing", &secret).await;
    let raw = Raw::open(&database).await;
    let before = connections(&raw).await;
    assert!(!before.is_empty());
    refuse_writes(&raw, "denied_tokens").await;
    assert_eq!(ask(&app, "revoke", "billing", &secret, &token).await.status(), 503);
    accept_writes(&raw, "denied_tokens").await;
    assert_eq!(ask(&app, "revoke", "billing", &secret, &token).await.status(), 200);
    // Each is ended when it is next looked at, so as many as there were are asked for.
    for _ in 0..2 * before.len() {
        app.running.server.keyring.refresh().await.unwrap();
    }
    let mut used = connections(&raw).await;
    used.retain(|pid| before.contains(pid));
    assert!(used.is_empty(), "still used: {used:?}");
    raw.close().await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_read_only_is_not_connected_to() {
    let database = TestDatabase::postgres().await;
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    let token = app.token("billing", &secret).await;
    let raw = Raw::open(&database).await;
    let (server, name) = database.url.rsplit_once('/').unwrap();
    let server = Raw::open(&TestDatabase {
        url: format!("{server}/postgres"),
        folder: tempfile::tempdir().unwrap(),
    })
    .await;
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
    server
        .execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await;
    raw.execute(end_all).await;
    assert_eq!(ask(&app, "revoke", "billing", &secret, &token).await.status(), 503);
    assert!(
        app.running.server.db.now().await.is_err(),
        "it reads from a server that is read-only"
    );
    server
        .execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"))
        .await;
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(ask(&app, "revoke", "billing", &secret, &token).await.status(), 200);
    raw.close().await;
    app.running.stop().await;
}
