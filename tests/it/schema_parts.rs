//! A schema of the right version of which a part is missing.

use keyround::clock::Clock;
use keyround::store::{Db, needed_rights};
use serde_json::Value;
use sqlx::sqlite::SqlitePoolOptions;

use crate::database_roles::{output, until_green, until_red};
use crate::helpers::{TestApp, TestDatabase};
use crate::rows::Raw;

async fn missing(db: &Db) -> String {
    db.require_whole_schema()
        .await
        .err()
        .map_or(String::new(), |error| error.to_string())
}

async fn columns(raw: &Raw, table: &str) -> Vec<String> {
    raw.texts(&match raw {
        Raw::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{table}')"),
        Raw::Postgres(_) => format!(
            "SELECT column_name::TEXT FROM information_schema.columns WHERE table_schema = 'public' AND table_name = '{table}'"
        ),
    })
    .await
}

crate::on_both_databases!(each_table_and_column_that_is_missing_is_named, |database| {
    let db = database.open().await;
    let mut raw = Raw::open(&database).await;
    if let Raw::Sqlite(pool) = &mut raw {
        // A second connection would parse a statement by the names that it had read.
        let one = SqlitePoolOptions::new().max_connections(1);
        *pool = one.connect(&database.url).await.unwrap();
    }
    assert_eq!(missing(&db).await, "");
    let tables = needed_rights().map(|(table, _)| table);
    for table in tables.filter(|table| *table != "_sqlx_migrations") {
        raw.execute(&format!("ALTER TABLE {table} RENAME TO away")).await;
        let said = missing(&db).await;
        assert!(said.contains(&format!("lacks: table {table};")), "{said}");
        raw.execute(&format!("ALTER TABLE away RENAME TO {table}")).await;
        assert_eq!(missing(&db).await, "", "{table}");
        for column in columns(&raw, table).await {
            raw.execute(&format!("ALTER TABLE {table} RENAME COLUMN {column} TO away"))
                .await;
            let said = missing(&db).await;
            for part in [format!("column {column} "), format!(" of table {table}")] {
                assert!(said.contains(&part), "{table}.{column}: {said}");
            }
            raw.execute(&format!("ALTER TABLE {table} RENAME COLUMN away TO {column}"))
                .await;
        }
    }
    // What a later version or an administrator added is no fault.
    raw.execute("ALTER TABLE users ADD COLUMN nickname TEXT; CREATE TABLE of_others (x BIGINT PRIMARY KEY); CREATE UNIQUE INDEX more ON users (name, email)")
        .await;
    assert_eq!(missing(&db).await, "");
    raw.close().await;
});

crate::on_both_databases!(a_part_that_is_missing_turns_the_checks_red, |database| {
    let settings = [("accounts.enabled", "true")];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let raw = Raw::open(&database).await;
    until_green(&app).await;
    for (breaks, mends, says) in [
        (
            "ALTER TABLE users RENAME TO people",
            "ALTER TABLE people RENAME TO users",
            "lacks: table users",
        ),
        (
            "ALTER TABLE limits RENAME COLUMN tat TO t",
            "ALTER TABLE limits RENAME COLUMN t TO tat",
            "lacks: column tat of table limits",
        ),
        (
            "ALTER TABLE audit RENAME TO log; ALTER TABLE tenants RENAME COLUMN name TO title",
            "ALTER TABLE log RENAME TO audit; ALTER TABLE tenants RENAME COLUMN title TO name",
            "lacks: table audit, column name of table tenants",
        ),
    ] {
        raw.execute(breaks).await;
        let (status, red) = until_red(&app, "schema", says).await;
        assert_eq!(status, 200, "{red:?}");
        for command in [&["db", "check"][..], &["config", "check", "--connect"], &["serve"]] {
            let (code, said) = output(&database, command);
            assert!(matches!(code, 1 | 2) && said.contains(says), "{command:?}: {said}");
        }
        raw.execute(mends).await;
        until_green(&app).await;
    }
    assert_eq!(output(&database, &["db", "check"]).0, 0);
    raw.close().await;
    app.running.stop().await;
});

/// The check of `db check` says so too, by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_is_called_schema() {
    let database = TestDatabase::sqlite();
    database.open().await.close().await;
    let raw = Raw::open(&database).await;
    raw.execute("DROP TABLE federated_logins").await;
    raw.close().await;
    let (code, said) = output(&database, &["db", "check", "--json"]);
    let end = said.rfind(']').unwrap();
    let findings: Vec<Value> = serde_json::from_str(&said[..=end]).unwrap();
    let failed: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["ok"] == false)
        .map(|finding| finding["name"].as_str().unwrap())
        .collect();
    assert_eq!((code, failed), (1, vec!["schema"]));
}
