//! All tables at once: read for a backup, written by a restore. What the tables are, the database itself is asked, so that
//! none can be forgotten.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{AssertSqlSafe, FromRow};

use crate::clock::UnixTime;

use super::dump::{Dump, DumpedRow};
use super::signing_keys::KeyChange;
use super::{Db, StoreError, Tx, in_tx, known_schema};

const SQLITE_COLUMNS: &str = "SELECT t.name AS of_table, c.name AS name, \
    CASE WHEN c.pk > 0 AND c.type = 'INTEGER' THEN 1 ELSE 0 END AS numbered \
    FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' \
    AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\' ORDER BY t.name, c.cid";
const POSTGRES_COLUMNS: &str = "SELECT CAST(table_name AS TEXT) AS of_table, CAST(column_name AS TEXT) AS name, \
    CAST(CASE WHEN is_identity = 'YES' THEN 1 ELSE 0 END AS BIGINT) AS numbered \
    FROM information_schema.columns WHERE table_schema = current_schema() \
    AND table_name NOT LIKE '\\_sqlx%' ORDER BY table_name, ordinal_position";
const POSTGRES_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const SCHEMA: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";

/// Signs of life, and a counter of this database's own: of no use anywhere else. Nor logins: one that was ended since the backup
/// was taken must not come back with it, so that people log in anew.
const NOT_KEPT: [&str; 6] = [
    "nodes",
    "key_version",
    "client_changes",
    "sessions",
    "limits",
    "federated_logins",
];

/// Tables whose rows refer to another table's, and are written after them.
const REFERRING: [&str; 2] = ["client_keys", "users"];

/// Why a backup was not restored. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in it.
    #[error("the database is not empty: table {0} has rows; restore into a new one")]
    NotEmpty(String),
    /// The backup is from a later version.
    #[error(
        "the backup has schema {found}, but this version of Keyround knows schemas up to {known}; use a newer version"
    )]
    Newer {
        /// That of the backup.
        found: i64,
        /// The newest that this binary knows.
        known: i64,
    },
    /// It holds what no schema of ours holds.
    #[error("the backup holds {0}, which this version of Keyround does not know")]
    Unknown(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(FromRow)]
struct Column {
    of_table: String,
    name: String,
    /// Whether the database numbers the rows by it: each numbers its own.
    numbered: i64,
}

/// The tables that are kept, each with its columns.
type Tables = BTreeMap<String, Vec<Column>>;

impl Db {
    /// Reads every table in one transaction, so that the rows belong together; servers go on meanwhile.
    ///
    /// # Errors
    /// When the database does not answer, or holds what is no row of ours.
    pub async fn dump(&self, now: UnixTime) -> Result<Dump, StoreError> {
        let mut tx = match self {
            Self::Sqlite { read, .. } => Tx::Sqlite(read.begin().await?),
            Self::Postgres { pool, .. } => Tx::Postgres(pool.begin_with(POSTGRES_READ).await?),
        };
        let taken_at = tx.now(now).await?;
        let schema = in_tx!(&mut tx, |connection| sqlx::query_scalar(SCHEMA)
            .fetch_one(connection)
            .await?);
        let mut rows = Vec::new();
        for (table, columns) in tables(&mut tx).await? {
            rows.extend(read_table(&mut tx, &table, &columns).await?);
        }
        Ok(Dump { schema, taken_at, rows })
    }

    /// Writes every row of a backup into an empty database, without a single private half, and answers with the change under
    /// way: what ends the restore must commit with it or not at all.
    ///
    /// # Errors
    /// When the database is not empty, the backup is not from this version or an older one, or the database does not answer.
    pub async fn begin_restore(&self, dump: &Dump) -> Result<KeyChange, RestoreError> {
        if dump.schema > known_schema() {
            return Err(RestoreError::Newer {
                found: dump.schema,
                known: known_schema(),
            });
        }
        let mut tx = KeyChange::within(self.begin().await?).await?.into_tx();
        let tables = tables(&mut tx).await?;
        for table in tables.keys() {
            if count(&mut tx, table).await? > 0 {
                return Err(RestoreError::NotEmpty(table.clone()));
            }
        }
        let refers = |row: &&DumpedRow| REFERRING.contains(&row.table.as_str());
        let referred_first = dump.rows.iter().filter(|row| !refers(row));
        for row in referred_first.chain(dump.rows.iter().filter(refers)) {
            write_row(&mut tx, &tables, row).await?;
        }
        Ok(KeyChange::within(tx).await?)
    }
}

async fn tables(tx: &mut Tx) -> Result<Tables, StoreError> {
    let columns: Vec<Column> = match tx {
        Tx::Sqlite(tx) => sqlx::query_as(SQLITE_COLUMNS).fetch_all(&mut **tx).await?,
        Tx::Postgres(tx) => sqlx::query_as(POSTGRES_COLUMNS).fetch_all(&mut **tx).await?,
    };
    let mut tables = Tables::new();
    for column in columns {
        if !NOT_KEPT.contains(&column.of_table.as_str()) {
            tables.entry(column.of_table.clone()).or_default().push(column);
        }
    }
    Ok(tables)
}

async fn read_table(tx: &mut Tx, table: &str, columns: &[Column]) -> Result<Vec<DumpedRow>, StoreError> {
    let object = match tx {
        Tx::Sqlite(_) => "json_object",
        Tx::Postgres(_) => "json_build_object",
    };
    let kept = columns.iter().filter(|column| column.numbered == 0);
    let pairs: Vec<String> = kept
        .map(|Column { name, .. }| format!("'{name}', \"{name}\""))
        .collect();
    let numbered = columns.iter().find(|column| column.numbered != 0);
    let order = numbered.or(columns.first()).map_or("", |column| &column.name);
    let select = format!(
        "SELECT CAST({object}({}) AS TEXT) FROM \"{table}\" ORDER BY \"{order}\"",
        pairs.join(", ")
    );
    let rows: Vec<String> = in_tx!(tx, |connection| sqlx::query_scalar(AssertSqlSafe(select))
        .fetch_all(connection)
        .await?);
    let parse = |row: String| {
        let row = serde_json::from_str(&row).map_err(|error| StoreError::Corrupt {
            table: "of the schema",
            row: table.to_owned(),
            reason: error.to_string(),
        })?;
        let table = table.to_owned();
        Ok(DumpedRow { table, row })
    };
    rows.into_iter().map(parse).collect()
}

async fn count(tx: &mut Tx, table: &str) -> Result<i64, StoreError> {
    let select = AssertSqlSafe(format!("SELECT count(*) FROM \"{table}\""));
    Ok(in_tx!(tx, |connection| sqlx::query_scalar(select)
        .fetch_one(connection)
        .await?))
}

async fn write_row(tx: &mut Tx, tables: &Tables, row: &DumpedRow) -> Result<(), RestoreError> {
    let unknown = |what: String| RestoreError::Unknown(what);
    let known = tables
        .get(&row.table)
        .ok_or_else(|| unknown(format!("table {}", row.table)))?;
    let mut values = Vec::new();
    for (column, value) in &row.row {
        if !known.iter().any(|known| known.name == *column) {
            return Err(unknown(format!("column {column} of table {}", row.table)));
        }
        // A private half from a backup may lie in other hands; it never enters the database.
        let private_half = row.table == "signing_keys" && column == "sealed";
        if !value.is_null() && !private_half {
            values.push((column, value));
        }
    }
    let names: Vec<String> = values.iter().map(|(column, _)| format!("\"{column}\"")).collect();
    let places: Vec<String> = (1..=values.len()).map(|place| format!("${place}")).collect();
    let insert = format!(
        "INSERT INTO \"{}\" ({}) VALUES ({})",
        row.table,
        names.join(", "),
        places.join(", ")
    );
    in_tx!(tx, |connection| {
        let mut query = sqlx::query(AssertSqlSafe(insert));
        for (column, value) in &values {
            query = match value {
                Value::String(text) => query.bind(text.clone()),
                Value::Number(number) if number.is_i64() => query.bind(number.as_i64()),
                _ => {
                    return Err(unknown(format!(
                        "a strange value in column {column} of table {}",
                        row.table
                    )));
                }
            };
        }
        query.execute(connection).await.map_err(StoreError::from)?;
    });
    Ok(())
}
