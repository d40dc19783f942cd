//! Our tables by name, for what works on all of them: backup, restore, copy. A schema may hold what others put there (the tables and
//! views of an extension, for example); that is never read or written.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, FromRow};

use crate::values::Database;

use super::transaction::Backend;
use super::{Db, StoreError, Tx, in_tx};

/// Whether a backup holds the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InBackup {
    Yes,
    /// Signs of life and counters of this database's own are of no use anywhere else. Nor logins: one that was ended since the backup was
    /// taken must not come back with it, so that people log in again.
    No,
}

/// Every table, in the order in which they are written: one that others refer to comes before them. A test compares this list with
/// the schema.
pub(super) const TABLES: &[(&str, InBackup)] = &[
    ("signing_keys", InBackup::Yes),
    ("key_version", InBackup::No),
    ("verifying_keys", InBackup::Yes),
    ("key_uses", InBackup::Yes),
    ("secrets", InBackup::Yes),
    ("revocation_changes", InBackup::No),
    ("revocation_readers", InBackup::No),
    ("denied_tokens", InBackup::Yes),
    ("clients", InBackup::Yes),
    ("client_changes", InBackup::No),
    ("client_keys", InBackup::Yes),
    ("client_assertions", InBackup::Yes),
    ("tenants", InBackup::Yes),
    ("users", InBackup::Yes),
    ("identity_providers", InBackup::Yes),
    ("federated_identities", InBackup::Yes),
    ("federated_logins", InBackup::No),
    ("login_sessions", InBackup::No),
    ("sessions", InBackup::No),
    ("authorization_codes", InBackup::No),
    ("consents", InBackup::Yes),
    ("resource_servers", InBackup::Yes),
    ("scopes", InBackup::Yes),
    ("limits", InBackup::No),
    ("nodes", InBackup::No),
    ("clock", InBackup::No),
    ("audit", InBackup::Yes),
];

const SQLITE_COLUMNS: &str = "SELECT t.name AS of_table, c.name AS name, CASE WHEN c.type = 'TEXT' THEN 1 ELSE 0 END AS is_text, \
    CASE WHEN c.pk > 0 AND c.type = 'INTEGER' THEN 1 ELSE 0 END AS is_numbered \
    FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' ORDER BY t.name, c.cid";
const POSTGRES_COLUMNS: &str = "SELECT CAST(table_name AS TEXT) AS of_table, CAST(column_name AS TEXT) AS name, \
    CAST(CASE WHEN data_type = 'text' THEN 1 ELSE 0 END AS BIGINT) AS is_text, \
    CAST(CASE WHEN is_identity = 'YES' THEN 1 ELSE 0 END AS BIGINT) AS is_numbered \
    FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position";

#[derive(Clone, Debug, FromRow)]
pub(super) struct Column {
    of_table: String,
    pub(super) name: String,
    is_text: i64,
    is_numbered: i64,
}

impl Column {
    /// Text; otherwise it holds integers.
    pub(super) const fn is_text(&self) -> bool {
        self.is_text != 0
    }

    /// Whether the database numbers the rows by it.
    pub(super) const fn is_numbered(&self) -> bool {
        self.is_numbered != 0
    }
}

/// Tables with their columns.
pub(super) type Columns = BTreeMap<String, Vec<Column>>;

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(name, _)| *name)
}

pub(super) fn is_in_backup(table: &str) -> bool {
    TABLES.contains(&(table, InBackup::Yes))
}

/// The columns of our tables as this binary makes them.
pub(super) async fn known_columns() -> Result<Columns, StoreError> {
    let db = Db::connect(&Database::SqliteInMemory).await?;
    db.migrate().await?;
    let mut tx = db.begin().await?;
    let columns = columns_of(&mut tx).await?;
    drop(tx);
    db.close().await;
    Ok(columns)
}

/// The columns of this database that `known` knows too: a schema may be older than this binary, and others may have added to it.
pub(super) async fn columns(tx: &mut Tx, known: &Columns) -> Result<Columns, StoreError> {
    let mut columns = columns_of(tx).await?;
    for (table, columns) in &mut columns {
        let is_known = |name: &str| {
            known
                .get(table)
                .is_some_and(|known| known.iter().any(|column| column.name == name))
        };
        columns.retain(|column| is_known(&column.name));
    }
    Ok(columns)
}

async fn columns_of(tx: &mut Tx) -> Result<Columns, StoreError> {
    let all: Vec<Column> = match &mut tx.on {
        Backend::Sqlite(tx) => sqlx::query_as(SQLITE_COLUMNS).fetch_all(&mut **tx).await?,
        Backend::Postgres(tx, _) => sqlx::query_as(POSTGRES_COLUMNS).fetch_all(&mut **tx).await?,
    };
    let mut columns = Columns::new();
    for column in all {
        if names().any(|name| name == column.of_table) {
            columns.entry(column.of_table.clone()).or_default().push(column);
        }
    }
    Ok(columns)
}

pub(super) async fn count(tx: &mut Tx, table: &str) -> Result<i64, StoreError> {
    let select = AssertSqlSafe(format!("SELECT count(*) FROM \"{table}\""));
    Ok(in_tx!(tx, |connection| sqlx::query_scalar(select)
        .fetch_one(connection)
        .await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_list_is_the_schema() {
        let db = Db::connect(&Database::SqliteInMemory).await.unwrap();
        db.migrate().await.unwrap();
        let Db::Sqlite { read, .. } = &db else { unreachable!() };
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
                      AND name NOT LIKE '\\_sqlx%' ESCAPE '\\' ORDER BY name";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(read).await.unwrap();
        let mut listed: Vec<&str> = names().collect();
        listed.sort_unstable();
        assert_eq!(
            listed, tables,
            "a table that a migration makes must be in TABLES, where it says whether a backup holds it"
        );
    }
}
