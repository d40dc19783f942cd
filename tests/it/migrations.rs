//! The twin migrations: one schema on both databases, whoever brings it about.

use std::collections::BTreeSet;
use std::path::Path;

use keyround::app::Foundation;
use keyround::clock::Clock;
use keyround::store::compatibility::works_since;
use keyround::store::{Db, StoreError};

use crate::helpers::{TestDatabase, config};
use crate::rows::Raw;

fn file_names(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
    std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn the_twin_folders_hold_the_same_files() {
    let names = file_names("sqlite");
    assert!(!names.is_empty());
    assert_eq!(names, file_names("postgres"));
}

/// The first whose name says with which servers it works.
const FIRST_NAMED: i64 = 29;

#[test]
fn each_migration_says_since_which_version_servers_work_with_it() {
    for name in file_names("sqlite") {
        let (version, words) = name.split_once('_').unwrap();
        let version: i64 = version.parse().unwrap();
        let since = works_since(&words.replace('_', " "));
        if version >= FIRST_NAMED {
            assert!(
                since.is_some_and(|since| since <= version),
                "{name}: name it NNNN_works_since_MMMM_words.sql"
            );
        }
    }
}

/// Every column and unique index of our tables, a line each; the migrator's own table is its own affair.
async fn schema(database: &TestDatabase) -> Vec<String> {
    let raw = Raw::open(database).await;
    let queries = match raw {
        Raw::Sqlite(_) => [
            "SELECT t.name || '.' || c.name || ' ' || CASE c.type WHEN 'TEXT' THEN 'text' ELSE 'integer' END || \
             CASE WHEN c.\"notnull\" = 1 OR (c.pk > 0 AND c.type = 'INTEGER') THEN ' not null' ELSE '' END \
             FROM sqlite_master t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
            "SELECT t.name || ' unique ' || (SELECT group_concat(name, ',') FROM (SELECT c.name FROM \
             pragma_index_info(i.name) c ORDER BY c.seqno)) \
             FROM sqlite_master t, pragma_index_list(t.name) i \
             WHERE t.type = 'table' AND i.\"unique\" = 1 AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\' \
             UNION SELECT t.name || ' unique ' || c.name FROM sqlite_master t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND c.pk = 1 AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\' \
             AND (SELECT count(*) FROM pragma_table_info(t.name) of_key WHERE of_key.pk > 0) = 1",
        ],
        Raw::Postgres(_) => [
            "SELECT table_name || '.' || column_name || ' ' || CASE data_type WHEN 'text' THEN 'text' WHEN 'bigint' \
             THEN 'integer' ELSE data_type END || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END \
             FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'",
            "SELECT t.relname || ' unique ' || string_agg(a.attname, ',' ORDER BY k.place) \
             FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace \
             CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, place) \
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum \
             WHERE n.nspname = 'public' AND i.indisunique AND t.relname NOT LIKE '\\_sqlx%' \
             GROUP BY t.relname, i.indexrelid",
        ],
    };
    let mut lines = Vec::new();
    for query in queries {
        lines.extend(raw.texts(query).await);
    }
    lines.sort();
    raw.close().await;
    lines
}

#[tokio::test]
async fn both_databases_get_the_same_schema() {
    let (sqlite, postgres) = (TestDatabase::sqlite(), TestDatabase::postgres().await);
    sqlite.open().await.close().await;
    postgres.open().await.close().await;
    let ours = schema(&sqlite).await;
    assert_eq!(ours, schema(&postgres).await);
    for expected in [
        "signing_keys unique alg,generation",
        "signing_keys unique kid",
        "audit unique subject,once",
        "signing_keys.sealed text",
        "signing_keys.published_at integer not null",
    ] {
        assert!(
            ours.iter().any(|line| line == expected),
            "{expected} is missing in {ours:#?}"
        );
    }
}

crate::on_both_databases!(migrating_again_changes_nothing, |database| {
    let db = database.open().await;
    let applied = "SELECT count(*) FROM _sqlx_migrations";
    let raw = Raw::open(&database).await;
    let (before, files) = (schema(&database).await, file_names("sqlite").len());
    assert_eq!(raw.number(applied).await, i64::try_from(files).unwrap());
    raw.execute("UPDATE key_version SET version = 7").await;
    db.migrate().await.unwrap();
    database.open().await;
    assert_eq!(schema(&database).await, before);
    assert_eq!(raw.number(applied).await, i64::try_from(files).unwrap());
    assert_eq!(raw.number("SELECT version FROM key_version").await, 7);
});

crate::on_both_databases!(five_that_migrate_at_once_all_succeed, |database| {
    // As a start does, which tries again when another one is in its way: a new SQLite file changes its journal without waiting.
    let config = std::sync::Arc::new(config(&database, &[]));
    let at_once: Vec<_> = (0..5)
        .map(|_| {
            let config = std::sync::Arc::clone(&config);
            tokio::spawn(async move { Foundation::open(&config, Clock::system()).await.map(|_| ()) })
        })
        .collect();
    for started in at_once {
        started.await.unwrap().unwrap();
    }
    let raw = Raw::open(&database).await;
    assert_eq!(raw.number("SELECT count(*) FROM key_version").await, 1);
});

crate::on_both_databases!(a_schema_that_is_newer_than_the_binary_is_refused, |database| {
    database.open().await.close().await;
    let raw = Raw::open(&database).await;
    let checksum = match raw {
        Raw::Sqlite(_) => "x'00'",
        Raw::Postgres(_) => "'\\x00'",
    };
    raw.execute(&format!(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
         VALUES (9999, 'later', CURRENT_TIMESTAMP, true, {checksum}, 0)"
    ))
    .await;
    let db = Db::connect(&database.url.parse().unwrap()).await.unwrap();
    let answer = db.migrate().await;
    let newest = file_names("sqlite").into_iter().next_back().unwrap();
    let known: i64 = newest.split('_').next().unwrap().parse().unwrap();
    let refused = matches!(answer, Err(StoreError::NewerSchema { found: 9999, known: stated }) if stated == known);
    assert!(refused, "{answer:?}");
});
