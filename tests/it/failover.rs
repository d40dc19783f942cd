//! A database that is no longer the primary, and one that lost its last seconds: what a node may still say.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use keyround::clock::{Clock, Seconds, sleep};
use keyround::oauth::client::ClientId;
use keyround::registry::Registry;
use keyround::revocations::{Endings, Followed};
use keyround::store::clients::ClientChange;
use keyround::store::look::{Known, News};
use keyround::store::nodes::{Heartbeat, Place};
use keyround::store::tenants::TenantChange;
use keyround::store::{ROUND_TRIPS, STATEMENT_TIMEOUT};
use keyround::values::SessionId;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::child::{Process, register_clients};
use crate::helpers::{START, TestApp, TestDatabase, entry};
use crate::introspection::{ask, ask_until_known};
use crate::network::{Network, network};
use crate::process::run;
use crate::rows::Raw;

const PASSWORD: &str = "correct horse battery staple";

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
pub async fn refuse_writes(raw: &Raw, table: &str) {
    match raw {
        Raw::Sqlite(_) => {
            for event in ["INSERT", "UPDATE"] {
                raw.execute(&format!(
                    "CREATE TRIGGER refuse_{event}_{table} AFTER {event} ON {table} BEGIN SELECT RAISE(ABORT, 'read-only'); END"
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
                "CREATE TRIGGER refuse_{table} AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
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
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
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
    for _ in 0..600 {
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
        place: Place::default(),
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
    let own = app.running.server.keyring.node_id();
    let nodes = db.living_nodes(now, Seconds(60)).await.unwrap();
    let own = nodes.iter().find(|node| node.node_id == own).unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let place = Place {
        host: host.trim().to_owned(),
        listener: app.url.strip_prefix("http://").unwrap().to_owned(),
        process_id: std::process::id().into(),
    };
    assert_eq!(own.place, place);
    let kid = app.key_set().await["keys"][0]["kid"].as_str().unwrap().to_owned();
    let output = revoke_key(&database, &kid);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("lost (of an earlier version") && told.contains("silent"),
        "{told}"
    );
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let unconfirmed: Vec<_> = said["nodes"]["unconfirmed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["node_id"].as_str().unwrap(), node["living"].as_bool().unwrap()))
        .collect();
    assert_eq!(unconfirmed, [("lost", true), ("silent", false)], "{said}");
    assert_eq!(said["nodes"]["living"], 3);
    let silent = &said["nodes"]["unconfirmed"][1];
    assert_eq!(silent["seen_at"], (now - Seconds(600)).rfc3339());
    assert_eq!(silent["counts_until"], (now - Seconds(600) + Seconds(86_400)).rfc3339());

    // What the message proposes ends the wait for the one that is stopped; the one that is alive is not believed to be.
    assert!(
        told.contains("--reason TEXT --yes --stopped lost --stopped silent\""),
        "{told}"
    );
    let again = |stopped: &[&str]| {
        let named = stopped.iter().flat_map(|node| ["--stopped", node]);
        let command = ["keys", "revoke", kid.as_str(), "--reason", "drill", "--yes"];
        let (code, said) =
            crate::database_roles::output(&database, &command.into_iter().chain(named).collect::<Vec<_>>());
        (code, said)
    };
    for unknown in ["unheard-of", "stopped", "billing", "Silent"] {
        let (code, told) = again(&["lost", "silent", unknown]);
        assert!(
            code == 2 && told.contains(&format!("no server has the node id '{unknown}',")),
            "{unknown}: {told}"
        );
    }
    let (code, told) = again(&["lost", "silent"]);
    assert!(
        code == 1 && told.contains("not stopped, or were until a moment ago: lost"),
        "{told}"
    );
    assert!(!told.contains("node silent"), "{told}");
    db.beat(&node("lost", 600, 1_000, Some("00000000000000000000000000000001")))
        .await
        .unwrap();
    assert_eq!(again(&[]).0, 1);
    // One whose clock is wrong lives, whatever its heartbeats say of the time: it comes back while the command waits.
    let alive = tokio::spawn({
        let (db, heartbeat) = (
            db.clone(),
            node("lost", 600, 1_000, Some("00000000000000000000000000000001")),
        );
        async move {
            loop {
                sleep(Duration::from_millis(200)).await;
                db.beat(&heartbeat).await.unwrap();
            }
        }
    });
    let (code, told) = again(&["lost"]);
    assert!(code == 1 && told.contains("--stopped lost"), "{told}");
    alive.abort();
    assert!(alive.await.unwrap_err().is_cancelled());
    let (code, told) = again(&["lost"]);
    assert_eq!(code, 0, "{told}");
    // Nothing is left to be waited for.
    assert_eq!(again(&[]).0, 0);
    let raw = Raw::open(&database).await;
    let forgotten = raw.texts("SELECT subject FROM audit WHERE event = 'node.forgotten' ORDER BY subject");
    assert_eq!(forgotten.await, ["lost", "lost", "silent"]);
    raw.close().await;
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
    let answer = ask_until_known(&app, "revoke", "billing", &secret, &token).await;
    assert_eq!(answer.status(), 200);
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
    let answer = ask_until_known(&app, "revoke", "billing", &secret, &token).await;
    assert_eq!(answer.status(), 200);
    raw.close().await;
    app.running.stop().await;
}

/// This URL with these hosts before its own.
fn with_hosts(url: &str, hosts: &str) -> String {
    let (before, after) = url.split_once('@').unwrap();
    let (own, path) = after.split_once('/').unwrap();
    format!("{before}@{hosts},{own}/{path}?target_session_attrs=read-write")
}

fn host_of(url: &str) -> &str {
    url.split_once('@').unwrap().1.split('/').next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_the_one_that_accepts_writes_is_used() {
    let mut database = TestDatabase::postgres().await;
    let (to_first, first) = watch::channel(Network::Open { era: 0 });
    let first = network(&database.url, first).await;
    let raw = Raw::open(&database).await;
    // The first refuses connections, the second is a way to the database that will go silent.
    database.url = with_hosts(&database.url, &format!("127.0.0.1:1,{}", host_of(&first)));
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    for era in 1..4 {
        to_first.send_replace(Network::Closed);
        let clock = Clock::system();
        // What was under way is answered, and the next request finds the way that is open.
        let answer = app.ask("billing", &secret, &[GRANT]).await;
        assert!([200, 503].contains(&answer.status().as_u16()));
        let mut answer = answer.status();
        while answer != 200 && clock.read().monotonic < Duration::from_mins(1) {
            answer = app.ask("billing", &secret, &[GRANT]).await.status();
        }
        println!("tokens again after {:?}", clock.read().monotonic);
        assert_eq!(answer, 200);
        app.running.server.rotation.tick().await.unwrap();
        to_first.send_replace(Network::Open { era });
    }
    raw.close().await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_names_the_hosts_that_cannot_be_used() {
    let database = TestDatabase::postgres().await;
    database.open().await.close().await;
    let (server, name) = database.url.rsplit_once('/').unwrap();
    let server = Raw::open(&TestDatabase {
        url: format!("{server}/postgres"),
        folder: tempfile::tempdir().unwrap(),
    })
    .await;
    server
        .execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await;
    let url = with_hosts(&database.url, "127.0.0.1:1");
    for command in [&["serve"][..], &["keys", "list"], &["db", "migrate"]] {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_DATABASE__URL", url.as_str()),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
        ];
        let output = run(database.folder.path(), &variables, command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in [
            "no database server can be used: 127.0.0.1:1: Connection refused",
            &format!("{}: the server accepts no writes", host_of(&database.url)),
        ] {
            assert!(said.contains(part), "{command:?}: {said}");
        }
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_few_lines_in_the_log() {
    let database = TestDatabase::postgres().await;
    let (door, watched) = watch::channel(Network::Open { era: 0 });
    let through = TestDatabase {
        url: network(&database.url, watched).await,
        folder: tempfile::tempdir().unwrap(),
    };
    // It must not stop signing because a busy machine reads the keys late.
    let settings = [QUICK, &[("keys.snapshot_max_age", "20s")]].concat();
    let secret = register_clients(&database, &settings).await;
    let mut process = Process::spawn(&through, "node", &settings);
    process.until_it_serves().await;
    let address = process.address().unwrap();
    let http = reqwest::Client::new();
    let ask = async || {
        let answer = http
            .post(format!("http://{address}/oauth2/token"))
            .basic_auth("ES256", Some(&secret))
            .form(&[GRANT])
            .send()
            .await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(ask().await, 200, "{}", process.log());
    let before = process.log().lines().count();
    door.send_replace(Network::Closed);
    let clock = Clock::system();
    let (mut failed, mut took) = (0, Vec::new());
    while clock.read().monotonic < Duration::from_secs(6) || took.len() < 5 {
        let began = clock.read().monotonic;
        let answers = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask());
        took.push(clock.read().monotonic.saturating_sub(began));
        failed += u32::from(answers.0 == 503);
    }
    assert!(failed > 0);
    // More than half of the rounds: a busy machine may hold up some.
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(3), "answers took {took:?}");
    door.send_replace(Network::Open { era: 1 });
    let mut answer = 0;
    for _ in 0..600 {
        answer = ask().await;
        if answer == 200 && process.log().contains("the database answers again") {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(answer, 200);
    let log = process.log();
    // The refusals are lines of their own at INFO, as ever.
    let is_complaint = |line: &&str| line.contains(r#""level":"ERROR""#) || line.contains(r#""level":"WARN""#);
    let lines: Vec<&str> = log.lines().skip(before).filter(is_complaint).collect();
    assert!(log.contains("the database answers again"), "{lines:#?}");
    assert!(log.contains("no database server accepts writes"), "{lines:#?}");
    println!("{failed} failures, {lines:#?}");
    assert!(lines.len() <= 6, "{lines:#?}");
    process.tell_to_stop();
    process.until_it_ends().await;
}

crate::on_both_databases!(
    a_token_of_a_vanished_key_is_active_while_the_key_is_published,
    |database| {
        let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
        let secret = app.create_client("billing", None).await;
        let token = app.token("billing", &secret).await;
        let raw = Raw::open(&database).await;
        let published = app.key_set().await;
        raw.execute("DELETE FROM signing_keys").await;
        app.running.server.keyring.refresh().await.unwrap();
        assert_eq!(app.key_set().await, published);
        let answer = ask_until_known(&app, "introspect", "billing", &secret, &token).await;
        let said: Value = answer.json().await.unwrap();
        assert_eq!(said["active"], true);
        raw.close().await;
        app.running.stop().await;
    }
);

/// A lost audit record and a lost end, as on a standby without the last seconds.
async fn lose(raw: &Raw, statements: &[&str]) {
    for statement in statements {
        raw.execute(statement).await;
    }
}

// Denied by this node, and lost: it stays denied here, is written again for the others, and is reported.
crate::on_both_databases!(what_a_node_knew_outlives_a_database_that_lost_it, |database| {
    let app = TestApp::start_with_clock(&database, QUICK, Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    let token = app.token("billing", &secret).await;
    let raw = Raw::open(&database).await;
    let answer = ask_until_known(&app, "revoke", "billing", &secret, &token).await;
    assert_eq!(answer.status(), 200);
    app.running
        .server
        .keyring
        .sessions_ended([SessionId::from_bytes([7; 16])]);
    raw.execute("INSERT INTO tenants (tenant_id, name, created_at) VALUES ('acme', 'Acme', 1)")
        .await;
    let db = database.open().await;
    let acme = "acme".parse().unwrap();
    let disabled = entry("tenant.disabled", "acme");
    db.change_tenant(&acme, TenantChange::Disable, &disabled).await.unwrap();
    app.running.server.rotation.tick().await.unwrap();

    lose(
        &raw,
        &[
            "DELETE FROM denied_tokens",
            "DELETE FROM sessions",
            "UPDATE tenants SET disabled_at = NULL",
            "DELETE FROM audit WHERE event IN ('token.denied', 'tenant.disabled', 'session.ended')",
        ],
    )
    .await;
    app.running.server.keyring.refresh().await.unwrap();
    let answer = ask_until_known(&app, "introspect", "billing", &secret, &token).await;
    assert_eq!(answer.json::<Value>().await.unwrap()["active"], false);
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(raw.number("SELECT count(*) FROM denied_tokens").await, 1);
    assert_eq!(
        raw.number("SELECT count(*) FROM tenants WHERE disabled_at IS NOT NULL")
            .await,
        1
    );
    assert_eq!(
        raw.number("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL")
            .await,
        1
    );
    let reported = "SELECT count(*) FROM audit WHERE reason = 'the database had lost it'";
    assert_eq!(raw.number(reported).await, 3);
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(raw.number(reported).await, 3, "it is written once");
    let metrics = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let restored: Vec<_> = metrics.lines().filter(|line| line.contains("restored")).collect();
    // The session was never in the database, so that its end was written before as well.
    assert!(metrics.contains("keyround_restored_records 4\n"), "{restored:?}");

    // A person who enables it again is obeyed, by a command or by hand.
    db.change_tenant(&acme, TenantChange::Enable, &entry("tenant.enabled", "acme"))
        .await
        .unwrap();
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(
        raw.number("SELECT count(*) FROM tenants WHERE disabled_at IS NOT NULL")
            .await,
        0
    );
    raw.close().await;
    app.running.stop().await;
});

crate::on_both_databases!(a_client_that_was_refused_stays_disabled, |database| {
    let app = TestApp::start_with_clock(&database, QUICK, Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    let id: ClientId = "billing".parse().unwrap();
    db.change_client(&id, &ClientChange::Disable, &entry("client.disabled", "billing"))
        .await
        .unwrap();
    app.until_clients_are_read_anew().await;
    assert_eq!(app.ask("billing", &secret, &[GRANT]).await.status(), 401);
    lose(
        &raw,
        &[
            "UPDATE clients SET disabled_at = NULL",
            "DELETE FROM audit WHERE event = 'client.disabled'",
        ],
    )
    .await;
    app.until_clients_are_read_anew().await;
    for _ in 0..2 {
        assert_eq!(app.ask("billing", &secret, &[GRANT]).await.status(), 401);
    }
    assert_eq!(
        raw.number("SELECT count(*) FROM clients WHERE disabled_at IS NOT NULL")
            .await,
        1
    );
    db.change_client(&id, &ClientChange::Enable, &entry("client.enabled", "billing"))
        .await
        .unwrap();
    app.token("billing", &secret).await;
    raw.close().await;
    app.running.stop().await;
});

/// The page states up to which latency a node works, and what says that it is higher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_holds_the_latency_that_the_page_states() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/postgresql.md");
    let page = std::fs::read_to_string(page).unwrap();
    let stated = |before: &str, after: &str| -> u64 {
        let (_, rest) = page.split_once(before).unwrap();
        rest.split_once(after).unwrap().0.parse().unwrap()
    };
    let bound = stated("a round trip to it may take up to ", " ms");
    assert_eq!(stated("is up to ", " round trips on a new"), u64::from(ROUND_TRIPS));
    assert_eq!(Duration::from_millis(bound), STATEMENT_TIMEOUT / ROUND_TRIPS);

    let database = TestDatabase::postgres().await;
    let (delays, watched) = watch::channel(Network::Open { era: 0 });
    let through = TestDatabase {
        url: network(&database.url, watched).await,
        folder: tempfile::tempdir().unwrap(),
    };
    let db = through.open().await.with_patience();
    let look_of = async |node: usize, followed: Option<&Followed>| {
        let heartbeat = Heartbeat {
            node_id: format!("node {node}"),
            seen_at: START.0,
            version: 0,
            change_id: None,
            policy_fingerprint: String::new(),
            clock_offset: 0,
            master_keys: String::new(),
            place: Place::default(),
        };
        let known = Known {
            followed,
            reads_tenants: false,
            endings: Endings { skew: Seconds(30) },
            ended_since: START,
        };
        db.beat_and_look(&heartbeat, &known, &std::sync::Arc::default()).await
    };
    // A look that was cut off may hold its own row until PostgreSQL hears of it: each look is one of another node, which has looked before.
    let mut places = Vec::new();
    for node in 0..60 {
        match look_of(node, None).await.unwrap().news {
            News::Whole(followed) => places.push(followed),
            other => panic!("{other:?}"),
        }
    }
    let count = std::cell::Cell::new(0);
    let look = async || {
        let node = count.replace(count.get() + 1);
        look_of(node, Some(&places[node])).await
    };
    let by = Duration::from_millis(bound);
    for _ in 0..3 {
        // Every connection is new: the others are dead.
        let era = delays.borrow().era().unwrap() + 1;
        delays.send_replace(Network::Slow { era, by });
        // The one that was in use is given up first.
        let mut looked = look().await;
        for _ in 0..10 {
            if looked.is_ok() {
                break;
            }
            looked = look().await;
        }
        assert!(matches!(looked.unwrap().news, News::Changes(..)));
    }
    // A node that starts reads everything, in two transactions.
    look_of(places.len(), None).await.unwrap();
    let era = delays.borrow().era().unwrap();
    let by = Duration::from_millis(bound * 4);
    delays.send_replace(Network::Slow { era, by });
    let refused = look().await.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("a look of up to {ROUND_TRIPS} round trips"))
            && refused.contains(&format!("so that each may take {bound} ms")),
        "{refused}"
    );
    // A lock keeps one statement waiting, and the others are as fast as always.
    let era = era + 1;
    delays.send_replace(Network::Open { era });
    let raw = Raw::open(&database).await;
    while look().await.is_err() {}
    let held = raw.hold("LOCK TABLE sessions").await;
    let refused = look().await.unwrap_err().to_string();
    assert!(!refused.contains("round trips"), "{refused}");
    held.let_go().await;
    raw.close().await;
}

/// A request asks several times, and each time is soon enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_slow_each_time_holds_no_answer_up() {
    let database = TestDatabase::postgres().await;
    let (pace, watched) = watch::channel(Network::Open { era: 0 });
    let through = TestDatabase {
        url: network(&database.url, watched).await,
        folder: tempfile::tempdir().unwrap(),
    };
    let settings = &[("accounts.bcrypt_cost", "4")];
    let secret = register_clients(&database, settings).await;
    let mut process = Process::spawn(&through, "node", settings);
    let address = process.until_it_serves().await;
    let password = through.folder.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let create = [
        "users",
        "create",
        "--email",
        "ada@example.com",
        "--name",
        "Ada",
        "--password-file",
        "password",
    ];
    let created = process.run(&create);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));

    let http = reqwest::Client::new();
    let clock = Clock::system();
    let timed = async |request: reqwest::RequestBuilder| {
        let began = clock.read().monotonic;
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        (status.as_u16(), body, clock.read().monotonic.saturating_sub(began))
    };
    let to = |path: &str| http.post(format!("http://{address}{path}"));
    let log_in = || {
        let person = json!({ "email": "ada@example.com", "password": PASSWORD, "token_delivery": "body" });
        to("/auth/login").json(&person)
    };
    let (status, tokens, _) = timed(log_in()).await;
    assert_eq!(status, 200, "{tokens}");

    // Each statement takes twice as long, since its connection is asked whether it lives; a login has more than five.
    let by = Duration::from_millis(300);
    pace.send_replace(Network::Slow { era: 0, by });
    let client = |path| to(path).basic_auth("ES256", Some(&secret));
    let (mut refused, mut took) = (0, Vec::new());
    for _ in 0..3 {
        let refresh = json!({ "refresh_token": tokens["refresh_token"], "token_delivery": "body" });
        let token = [("token", tokens["access_token"].as_str().unwrap())];
        let answers = tokio::join!(
            timed(log_in()),
            timed(to("/auth/refresh").json(&refresh)),
            timed(client("/oauth2/token").form(&[GRANT])),
            timed(client("/oauth2/introspect").form(&token)),
        );
        for (status, body, time) in [answers.0, answers.1, answers.2, answers.3] {
            took.push(time);
            assert!([200, 503].contains(&status), "{status} {body}");
            refused += u32::from(status == 503);
        }
    }
    assert!(refused > 0, "it is not slow enough to show anything");
    // The password was right, however late: nobody is locked out by it. More logins than an account may fail, which come as far as to be
    // charged.
    let by = Duration::from_millis(150);
    pace.send_replace(Network::Slow { era: 0, by });
    for _ in 0..8 {
        let (status, body, _) = timed(log_in()).await;
        assert!([200, 503].contains(&status), "{status} {body}");
    }
    // Two rounds of the three: a busy machine may hold up one.
    took.sort_unstable();
    assert!(took[7] < Duration::from_secs(3), "answers took {took:?}");
    pace.send_replace(Network::Open { era: 0 });
    sleep(Duration::from_secs(3)).await;
    let mut status = 503;
    while status == 503 {
        status = timed(log_in()).await.0;
        assert!(clock.read().monotonic < Duration::from_mins(1), "{}", process.log());
    }
    assert_eq!(status, 200, "{}", process.log());
    process.tell_to_stop();
    process.until_it_ends().await;
}

/// What is due and failed while the database was away is done as soon as it is back, and not when the next try would come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_due_is_done_as_soon_as_an_outage_ends() {
    let database = TestDatabase::postgres().await;
    let settings = [
        QUICK,
        &[("keys.algorithms", "ES256"), ("tokens.default_algorithm", "ES256")],
    ]
    .concat();
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let raw = Raw::open(&database).await;
    let count = "SELECT count(*) FROM signing_keys";
    let before = raw.number(count).await;
    refuse_writes(&raw, "signing_keys").await;
    // The newest key has signed for longer than a period.
    raw.execute("ALTER TABLE signing_keys DISABLE TRIGGER refuse_signing_keys")
        .await;
    raw.execute("UPDATE signing_keys SET activates_at = activates_at - 90000, published_at = published_at - 90000")
        .await;
    raw.execute("ALTER TABLE signing_keys ENABLE TRIGGER refuse_signing_keys")
        .await;
    // The next try after so many failures would come in half a minute.
    let rotation = &app.running.server.rotation;
    while rotation.progress().failures < 6 {
        sleep(Duration::from_millis(100)).await;
    }
    refuse_writes(&raw, "nodes").await;
    while rotation.failed_look().is_none() {
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(raw.number(count).await, before);
    accept_writes(&raw, "signing_keys").await;
    accept_writes(&raw, "nodes").await;
    while rotation.failed_look().is_some() {
        sleep(Duration::from_millis(50)).await;
    }
    let clock = Clock::system();
    let back = clock.read().monotonic;
    while raw.number(count).await == before {
        assert!(
            clock.read().monotonic < back + Duration::from_secs(15),
            "it waits for its next try"
        );
        sleep(Duration::from_millis(50)).await;
    }
    raw.close().await;
    app.running.stop().await;
}
