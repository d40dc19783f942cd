//! `keyround db`: the schema, whether everything is in order, and what nobody needs.

use keyround::clock::{Clock, Seconds};
use keyround::store::nodes::{Heartbeat, Place};
use serde_json::Value;

use crate::database_roles::red_checks;
use crate::failover::refuse_writes;
use crate::helpers::{TestApp, TestDatabase};
use crate::introspection::ask_until_known;
use crate::process::run;
use crate::rows::Raw;

fn output(database: &TestDatabase, arguments: &[&str]) -> std::process::Output {
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
    run(database.folder.path(), &variables, &[arguments, &["--json"]].concat())
}

fn json(database: &TestDatabase, arguments: &[&str]) -> Value {
    let output = output(database, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `db check` holds against the database: the failed checks with their details.
fn failed_checks(database: &TestDatabase) -> Vec<(String, String)> {
    let output = output(database, &["db", "check"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<_> = findings
        .iter()
        .filter(|finding| finding["ok"] == false)
        .map(|finding| {
            let text = |name: &str| finding[name].as_str().unwrap().to_owned();
            (text("name"), text("detail"))
        })
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!failed.is_empty())));
    failed
}

crate::on_both_databases!(a_new_database_is_migrated_once, |database| {
    let sqlite = database.url.starts_with("sqlite:");
    if !sqlite {
        assert_eq!(failed_checks(&database)[0].0, "schema");
    }
    let first = json(&database, &["db", "migrate"]);
    assert_eq!(first["from"], 0);
    assert!(first["to"].as_i64().unwrap() >= 2);
    let again = json(&database, &["db", "migrate"]);
    assert_eq!((&again["from"], &again["to"]), (&first["to"], &first["to"]));
    let failed = failed_checks(&database);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].0 == "active_keys" && failed[0].1.contains("there are no keys yet"),
        "{failed:?}"
    );
});

/// Lets a later version have made a step of the schema, under this name.
async fn note_later_step(raw: &Raw, description: &str) {
    let checksum = if matches!(raw, Raw::Sqlite(_)) {
        "x'00'"
    } else {
        "'\\x00'"
    };
    raw.execute(&format!(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
         VALUES (9999, '{description}', CURRENT_TIMESTAMP, true, {checksum}, 0)"
    ))
    .await;
}

crate::on_both_databases!(an_older_binary_names_both_schemas, |database| {
    database.open().await.close().await;
    let raw = Raw::open(&database).await;
    note_later_step(&raw, "later").await;
    let known = format!("knows schemas up to {}", keyround::store::known_schema());
    for command in [
        &["serve"][..],
        &["db", "migrate"],
        &["keys", "list"],
        &["backup", "file"],
    ] {
        let output = output(&database, command);
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{sentence}");
        assert!(
            sentence.contains("has schema 9999") && sentence.contains(&known),
            "{sentence}"
        );
    }
    let failed = failed_checks(&database);
    assert_eq!(failed[0].0, "schema");
    assert!(failed[0].1.contains(&known), "{failed:?}");
});

crate::on_both_databases!(a_schema_that_says_so_is_used_by_the_version_before, |database| {
    let before = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = before.create_client("service", None).await;
    let token = before.token("service", &secret).await;
    let raw = Raw::open(&database).await;
    raw.execute("ALTER TABLE sessions ADD COLUMN passkey TEXT").await;
    raw.execute("CREATE TABLE passkeys (id TEXT PRIMARY KEY)").await;
    let known = keyround::store::known_schema();
    let named = format!("works since {known:04} passkeys");
    note_later_step(&raw, &named).await;
    // What runs goes on, and what starts works.
    assert_eq!(red_checks(&before).await.0, 200);
    before.running.stop().await;
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.token("service", &secret).await;
    let answer = ask_until_known(&app, "introspect", "service", &secret, &token).await;
    assert_eq!(answer.json::<Value>().await.unwrap()["active"], true);
    assert_eq!(red_checks(&app).await.0, 200);
    assert_eq!(failed_checks(&database), []);
    app.running.stop().await;
    for (command, says) in [
        (&["db", "migrate"][..], "\"to\": 9999"),
        (&["db", "check"], "version 9999 of a later version"),
        (&["keys", "list"], "ES256"),
    ] {
        let output = output(&database, command);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(says), "{command:?}: {said}");
    }
    // It would leave out what it does not know.
    for command in [&["backup", "file"][..], &["db", "copy", "--to", "sqlite:other.db"]] {
        let output = output(&database, command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && said.contains("has schema 9999"),
            "{command:?}: {said}"
        );
    }
    let later = format!(
        "UPDATE _sqlx_migrations SET description = 'works since {:04} x' WHERE version = 9999",
        known + 1
    );
    raw.execute(&later).await;
    let output = output(&database, &["serve"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && said.contains("has schema 9999"),
        "{said}"
    );
});

crate::on_both_databases!(an_upgrade_is_told_beforehand, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let findings = |ok: bool| {
        let output = output(&database, &["db", "check", "--for-upgrade"]);
        assert_eq!(output.status.code(), Some(i32::from(!ok)));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = findings(true);
    assert!(
        told.contains("nothing is to be changed") && told.contains("1 run, and go on"),
        "{told}"
    );
    let raw = Raw::open(&database).await;
    // The schema of the version before.
    for column in ["host", "listener", "process_id"] {
        raw.execute(&format!("ALTER TABLE nodes DROP COLUMN {column}")).await;
    }
    raw.execute("DELETE FROM _sqlx_migrations WHERE version = 28").await;
    let told = findings(true);
    for says in [
        "to be made: 0028 (node places)",
        "1 run, and go on beside this version",
        "with a backup from before only",
    ] {
        assert!(told.contains(says), "{told}");
    }
    let again = findings(true);
    assert_eq!(again, told, "nothing was changed");
    note_later_step(&raw, "later").await;
    let told = findings(false);
    assert!(told.contains("has schema 9999"), "{told}");
    app.running.stop().await;
});

crate::on_both_databases!(a_check_finds_what_is_not_in_order, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.create_client("service", None).await;
    app.running.stop().await;
    assert_eq!(failed_checks(&database), []);
    let raw = Raw::open(&database).await;
    for (breaks, mends, name, says) in [
        (
            "UPDATE clients SET scope = 'a  \"'",
            "UPDATE clients SET scope = 'read write'",
            "clients",
            "its scope",
        ),
        (
            "UPDATE signing_keys SET alg = 'XX1' WHERE alg = 'RS256'",
            "UPDATE signing_keys SET alg = 'RS256' WHERE alg = 'XX1'",
            "signing_keys",
            "algorithm XX1",
        ),
        (
            "UPDATE signing_keys SET revoked_at = 1 WHERE alg = 'RS256'",
            "UPDATE signing_keys SET revoked_at = NULL",
            "active_keys",
            "no RS256 key is active",
        ),
        (
            "UPDATE signing_keys SET revoked_at = 1 WHERE alg = 'RS256'",
            "UPDATE signing_keys SET revoked_at = NULL",
            "private_halves",
            "is revoked and still has its private half",
        ),
        (
            "UPDATE signing_keys SET sealed = sealed || 'x' WHERE alg = 'RS256'",
            "UPDATE signing_keys SET sealed = substr(sealed, 1, length(sealed) - 1) WHERE alg = 'RS256'",
            "sealed_rows",
            "1 open under no master key",
        ),
        (
            "UPDATE secrets SET sealed = replace(sealed, 'v2.', 'v2.AAAAAAAA.')",
            "UPDATE secrets SET sealed = replace(sealed, 'v2.AAAAAAAA.', 'v2.')",
            "sealed_rows",
            "1 lie under the master key AAAAAAAA",
        ),
    ] {
        raw.execute(breaks).await;
        let failed = failed_checks(&database);
        let found = failed
            .iter()
            .any(|(check, detail)| check == name && detail.contains(says));
        assert!(found, "{breaks}: {failed:?}");
        raw.execute(mends).await;
        assert_eq!(failed_checks(&database), [], "{mends}");
    }
});

crate::on_both_databases!(rows_that_could_not_be_tried_are_not_called_good, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.running.stop().await;
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
    ];
    let output = run(database.folder.path(), &variables, &["db", "check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<&Value> = findings.iter().filter(|finding| finding["ok"] == false).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["name"], "sealed_rows");
    assert!(
        failed[0]["detail"]
            .as_str()
            .unwrap()
            .contains("set keys.master_key_file")
    );
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_behind_what_was_written_is_found() {
    let database = TestDatabase::sqlite();
    let two_hours_ahead = Clock::manual(Clock::system().read().wall + Seconds(7_200));
    let app = TestApp::start_with_clock(&database, &[], two_hours_ahead).await;
    app.running.stop().await;
    let failed = failed_checks(&database);
    assert!(failed.iter().any(|(check, _)| check == "clock"), "{failed:?}");
}

crate::on_both_databases!(nodes_that_have_gone_are_forgotten, |database| {
    let db = database.open().await;
    let now = Clock::system().read().wall;
    for (node_id, age) in [("lives", 10), ("rests", 86_000), ("has-gone", 86_500)] {
        let heartbeat = Heartbeat {
            node_id: node_id.to_owned(),
            seen_at: (now - Seconds(age)).0,
            version: 1,
            change_id: None,
            policy_fingerprint: String::new(),
            clock_offset: 0,
            master_keys: String::new(),
            place: Place::default(),
        };
        db.beat(&heartbeat).await.unwrap();
    }
    assert_eq!(json(&database, &["db", "prune"])["nodes"], 1);
    let raw = Raw::open(&database).await;
    let left = raw.texts("SELECT node_id FROM nodes ORDER BY node_id").await;
    assert_eq!(left, ["lives", "rests"]);
    assert_eq!(json(&database, &["db", "prune"])["nodes"], 0);
});

#[tokio::test]
async fn a_damaged_file_is_found() {
    let database = TestDatabase::sqlite();
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    // So many pages that the one in the middle is theirs.
    raw.execute(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000) \
         INSERT INTO secrets SELECT 'secret-' || n || '-' || hex(zeroblob(250)), 'v2.x', 1 FROM numbers",
    )
    .await;
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
    raw.close().await;
    db.close().await;
    let file = database.folder.path().join("keyround.db");
    let mut octets = std::fs::read(&file).unwrap();
    let middle = octets.len() / 2 / 4096 * 4096;
    octets[middle..middle + 4096].fill(0xff);
    std::fs::write(&file, octets).unwrap();
    assert_eq!(failed_checks(&database)[0].0, "integrity");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_utf_8_is_refused() {
    for encoding in ["LATIN1", "SQL_ASCII", "WIN1252"] {
        let options = format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        let database = TestDatabase::postgres_with(&options).await;
        let found = failed_checks(&database);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "encoding");
        assert!(found[0].1.contains(&format!("is {encoding}")), "{found:?}");
        for arguments in [&["serve"][..], &["db", "migrate"], &["clients", "list"]] {
            let refused = output(&database, arguments);
            let sentence = String::from_utf8(refused.stderr).unwrap();
            assert!(!refused.status.success(), "{arguments:?}");
            let told = sentence.contains(encoding) && sentence.contains("must be UTF8");
            // A command that only looks finds no schema, which a server has refused to make.
            assert!(told || arguments[0] == "clients", "{arguments:?}: {sentence}");
        }
        let tables = Raw::open(&database).await;
        assert_eq!(
            tables
                .number("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
                .await,
            0
        );
    }
    let database = TestDatabase::postgres_with("ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").await;
    let app = TestApp::start(&database, &[]).await;
    app.running.stop().await;
    // A schema that an earlier version has made in such a database.
    let raw = Raw::open(&database).await;
    raw.execute("UPDATE pg_database SET encoding = pg_char_to_encoding('LATIN1') WHERE datname = current_database()")
        .await;
    raw.close().await;
    for arguments in [&["serve"][..], &["db", "migrate"]] {
        let refused = output(&database, arguments);
        let sentence = String::from_utf8(refused.stderr).unwrap();
        let told = sentence.contains("LATIN1") && sentence.contains("must be UTF8");
        assert!(!refused.status.success() && told, "{arguments:?}: {sentence}");
    }
    let found = failed_checks(&database);
    assert!(found.iter().any(|(name, _)| name == "encoding"), "{found:?}");
}

crate::on_both_databases!(a_database_that_takes_no_writes_is_found, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.running.stop().await;
    let raw = Raw::open(&database).await;
    let rows = raw.number("SELECT count(*) FROM nodes").await;
    let findings = json(&database, &["db", "check"]);
    let writes = findings
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["name"] == "writes");
    assert_eq!(writes.unwrap()["ok"], true);
    assert_eq!(
        raw.number("SELECT count(*) FROM nodes").await,
        rows,
        "it leaves nothing"
    );
    refuse_writes(&raw, "nodes").await;
    let failed = failed_checks(&database);
    assert_eq!(failed.len(), 1, "the other checks go on: {failed:?}");
    let (name, detail) = &failed[0];
    assert!(name == "writes" && detail.contains("read-only"), "{failed:?}");
    assert!(!detail.contains("at line"), "{failed:?}");
});

/// PostgreSQL says at which line of its own source it refused; that helps no reader.
#[tokio::test]
async fn a_migration_that_fails_says_what_postgresql_said_and_no_line_of_its_source() {
    let database = TestDatabase::postgres().await;
    let raw = Raw::open(&database).await;
    raw.execute("CREATE TABLE clients (other TEXT)").await;
    let output = output(&database, &["db", "migrate"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("relation \\\"clients\\\" already exists"), "{told}");
    assert!(!told.contains("at line"), "{told}");
    raw.close().await;
}
