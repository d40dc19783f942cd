//! All our tables at once: read for a backup, written by a restore.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::clock::UnixTime;
use crate::values::Database;

use super::clock;
use super::dump::{Dump, DumpedRow};
use super::key_change::KeyChange;
use super::tables::{Column, Columns, InBackup, TABLES, columns, count, known_columns};
use super::transaction::Backend;
use super::{Db, StoreError, Tx, in_tx, known_schema};

pub(super) const POSTGRES_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const SCHEMA: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";

/// Tables that have rows from the first migration on, or from a server that has gone.
const NEVER_EMPTY: [&str; 6] = [
    "key_version",
    "client_changes",
    "nodes",
    "clock",
    "revocation_changes",
    "revocation_readers",
];

/// Why a backup was not restored. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in it.
    #[error("the database is not empty: table {0} has rows; name an empty one")]
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

impl Db {
    /// Reads every table in one transaction, so that the rows belong together; servers go on meanwhile.
    ///
    /// # Errors
    /// When the database does not answer, or holds what is no row of ours.
    pub async fn dump(&self, now: UnixTime) -> Result<Dump, StoreError> {
        let known = known_columns().await?;
        let mut tx = match self {
            Self::Sqlite { read, .. } => Tx::from(Backend::Sqlite(read.begin().await?)),
            Self::Postgres { pool, .. } => Tx::from(Backend::Postgres(pool.begin_with(POSTGRES_READ).await?, None)),
        };
        let taken_at = tx.now(now).await?;
        let schema = in_tx!(&mut tx, |connection| sqlx::query_scalar(SCHEMA)
            .fetch_one(connection)
            .await?);
        let columns = columns(&mut tx, &known).await?;
        let mut rows = Vec::new();
        for (table, in_backup) in TABLES {
            if let (InBackup::Yes, Some(columns)) = (in_backup, columns.get(*table)) {
                rows.extend(read_table(&mut tx, table, columns).await?);
            }
        }
        Ok(Dump { schema, taken_at, rows })
    }

    /// Writes every row of a backup into an empty database, without a single private half, and answers with the change under
    /// way: what ends the restore must commit with it or not at all.
    ///
    /// # Errors
    /// When the database is not empty, the backup is not from this version or an older one, or the database does not answer.
    pub async fn begin_restore(&self, dump: &Dump, now: UnixTime) -> Result<KeyChange, RestoreError> {
        if dump.schema > known_schema() {
            return Err(RestoreError::Newer {
                found: dump.schema,
                known: known_schema(),
            });
        }
        let mut tx = KeyChange::within(self.begin().await?).await?.into_tx();
        let columns = columns_of_all(&mut tx).await?;
        for (table, _) in TABLES {
            if !NEVER_EMPTY.contains(table) && count(&mut tx, table).await? > 0 {
                return Err(RestoreError::NotEmpty((*table).to_owned()));
            }
        }
        for (table, _) in TABLES.iter().filter(|(_, in_backup)| *in_backup == InBackup::Yes) {
            for row in dump.table(table) {
                write_row(&mut tx, &columns, row).await?;
            }
        }
        clock::restored(&mut tx, now).await?;
        Ok(KeyChange::within(tx).await?)
    }
}

/// Whether a backup can be restored: it is, into a database in memory that is given up then.
///
/// # Errors
/// Why it cannot.
pub async fn try_restore(dump: &Dump) -> Result<(), RestoreError> {
    let db = Db::connect(&Database::SqliteInMemory).await?;
    db.migrate().await?;
    drop(db.begin_restore(dump, dump.taken_at).await?);
    db.close().await;
    Ok(())
}

async fn columns_of_all(tx: &mut Tx) -> Result<Columns, StoreError> {
    columns(tx, &known_columns().await?).await
}

async fn read_table(tx: &mut Tx, table: &str, columns: &[Column]) -> Result<Vec<DumpedRow>, StoreError> {
    let object = tx.text("json_object", "json_build_object");
    let pairs: Vec<String> = columns
        .iter()
        .filter(|column| !column.is_numbered())
        .map(|Column { name, .. }| format!("'{name}', \"{name}\""))
        .collect();
    let numbered = columns.iter().find(|column| column.is_numbered());
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

async fn write_row(tx: &mut Tx, columns: &Columns, row: &DumpedRow) -> Result<(), RestoreError> {
    let unknown = |what: String| RestoreError::Unknown(what);
    let known = columns
        .get(&row.table)
        .ok_or_else(|| unknown(format!("table {}", row.table)))?;
    let mut values = Vec::new();
    for (column, value) in &row.row {
        let known = known
            .iter()
            .find(|known| known.name == *column)
            .ok_or_else(|| unknown(format!("column {column} of table {}", row.table)))?;
        let fits = match value {
            Value::Null => true,
            // PostgreSQL has no text with a null character.
            Value::String(text) => known.is_text() && !text.contains('\0'),
            Value::Number(number) => !known.is_text() && number.is_i64(),
            _ => false,
        };
        if !fits {
            return Err(unknown(format!(
                "a value in column {column} of table {} that cannot be in it",
                row.table
            )));
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
    let is_storable = |value: &Value| value.is_string() || value.is_i64();
    if let Some((column, _)) = values.iter().find(|(_, value)| !is_storable(value)) {
        return Err(unknown(format!(
            "a strange value in column {column} of table {}",
            row.table
        )));
    }
    in_tx!(tx, |connection| {
        let mut query = sqlx::query(AssertSqlSafe(insert));
        for (_, value) in &values {
            query = match value {
                Value::String(text) => query.bind(text.clone()),
                other => query.bind(other.as_i64()),
            };
        }
        query.execute(connection).await.map_err(StoreError::from)?;
    });
    Ok(())
}
