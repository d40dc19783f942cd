//! The whole database into another one: SQLite into PostgreSQL, and back.
//!
//! All rows are one transaction of the target, so a copy that is killed leaves none. Before it, a table of its own marks the target as the
//! place of an unfinished copy, so that no server takes the empty schema for a first start; the transaction that writes the rows removes it.
//! The source accepts no writes meanwhile.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::AssertSqlSafe;

use crate::clock::UnixTime;
use crate::crypto::sha256;
use crate::events::Entry;

use super::audit;
use super::backup::RestoreError;
use super::tables::{Column, Columns, TABLES, columns, count, known_columns};
use super::transaction::Backend;
use super::{Db, StoreError, Tx, in_tx, on_read};

/// The table that marks an unfinished copy. It exists before the schema does, so no migration makes it.
const MARK: &str = "keyround_unfinished_copy";
const SQLITE_MARKED: &str = "SELECT count(*) FROM sqlite_master WHERE name = 'keyround_unfinished_copy'";
const POSTGRES_MARKED: &str = "SELECT count(*) FROM pg_catalog.pg_tables \
                               WHERE schemaname = current_schema() AND tablename = 'keyround_unfinished_copy'";
const SOURCE: &str = "SELECT source FROM keyround_unfinished_copy";

/// Signs of life of the servers on the source, and how far they have read there: the target has none, and numbers its changes by itself.
const NOT_COPIED: [&str; 3] = ["nodes", "revocation_changes", "revocation_readers"];
/// Rows that the schema itself makes, with its triggers.
const MADE_BY_SCHEMA: [&str; 4] = ["key_version", "client_changes", "clock", "revocation_changes"];

const SQLITE_INSTALLED: &str = "SELECT version, CAST(strftime('%s', installed_on) AS INTEGER) FROM _sqlx_migrations";
const POSTGRES_INSTALLED: &str =
    "SELECT version, CAST(floor(extract(epoch FROM installed_on)) AS BIGINT) FROM _sqlx_migrations";
const SQLITE_SET_INSTALLED: &str =
    "UPDATE _sqlx_migrations SET installed_on = datetime($2, 'unixepoch') WHERE version = $1";
const POSTGRES_SET_INSTALLED: &str =
    "UPDATE _sqlx_migrations SET installed_on = to_timestamp(CAST($2 AS DOUBLE PRECISION)) WHERE version = $1";

const POSTGRES_SOURCE: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
/// Rows that are read at once.
const PAGE: i64 = 1_000;
/// Rows that one statement writes.
const ROWS_OF_STATEMENT: usize = 50;

/// What was copied of one table, equal on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopiedTable {
    /// The table.
    pub table: &'static str,
    /// How many rows it has.
    pub rows: u64,
    /// The sum of the SHA-256 digests of its rows, in hexadecimal: it does not depend on their order.
    pub checksum: String,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source.
    #[error(transparent)]
    Source(StoreError),
    /// The target.
    #[error(transparent)]
    Target(#[from] RestoreError),
    /// What was written is not what was read.
    #[error(
        "table {table} differs after the copy ({source_rows} rows in the source, {target_rows} in the target); nothing was copied"
    )]
    Differs {
        /// The table.
        table: &'static str,
        /// The rows of the source.
        source_rows: u64,
        /// The rows of the target.
        target_rows: u64,
    },
    /// A value that the target cannot hold.
    #[error("table {table} holds a value in column {column} that the other database cannot hold; nothing was copied")]
    Value {
        /// The table.
        table: &'static str,
        /// The column.
        column: String,
    },
}

impl CopyError {
    /// The same error of what was done with the source.
    fn of_source(self) -> Self {
        match self {
            Self::Target(RestoreError::Store(error)) => Self::Source(error),
            other => other,
        }
    }
}

impl From<StoreError> for CopyError {
    fn from(error: StoreError) -> Self {
        Self::Target(error.into())
    }
}

impl From<sqlx::Error> for CopyError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// A count and an order-independent digest.
#[derive(Default)]
struct Sum {
    rows: u64,
    digest: [u8; 32],
}

impl Sum {
    /// Adds a row to the sum, modulo 2^256. Objects have their members in the order of their names.
    fn add(&mut self, row: &Map<String, Value>) {
        self.rows += 1;
        let text = serde_json::to_string(row).unwrap_or_default();
        let mut carry = 0;
        for (sum, octet) in self.digest.iter_mut().zip(sha256(text.as_bytes())) {
            let total = u16::from(*sum) + u16::from(octet) + carry;
            carry = total >> 8;
            *sum = total.to_le_bytes()[0];
        }
    }

    fn hexadecimal(&self) -> String {
        self.digest.iter().fold(String::new(), |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        })
    }
}

impl Db {
    /// From where a copy into this database was begun that did not finish.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unfinished_copy(&self) -> Result<Option<String>, StoreError> {
        let marked: i64 = match self {
            Self::Sqlite { read, .. } => sqlx::query_scalar(SQLITE_MARKED).fetch_one(read).await?,
            Self::Postgres { pool, .. } => sqlx::query_scalar(POSTGRES_MARKED).fetch_one(pool).await?,
        };
        if marked == 0 {
            return Ok(None);
        }
        Ok(on_read!(self, |pool| sqlx::query_scalar(SOURCE)
            .fetch_optional(pool)
            .await)?)
    }

    /// Copies every row into another database, which must be empty or have an unfinished copy.
    ///
    /// # Errors
    /// When the target is not empty, a row cannot be copied, or a database does not answer; the target has no row then.
    pub async fn copy_to(
        &self,
        target: &Self,
        source: &str,
        now: UnixTime,
        entry: impl Fn(u64) -> Entry,
    ) -> Result<Vec<CopiedTable>, CopyError> {
        let known = known_columns().await?;
        target.mark_unfinished(source, now).await?;
        target.migrate().await?;
        let mut from = self.begin_source().await.map_err(CopyError::Source)?;
        let mut to = target.begin().await?;
        // The lock that this takes lets one copy at a time go on.
        in_tx!(&mut to, |connection| sqlx::raw_sql(AssertSqlSafe(format!(
            "DROP TABLE {MARK}"
        )))
        .execute(connection)
        .await
        .map(|_| ())?);
        refuse_rows(&mut to).await?;
        let from_columns = columns(&mut from, &known).await.map_err(CopyError::Source)?;
        let to_columns = columns(&mut to, &known).await?;
        let mut copied = Vec::new();
        for (table, _) in TABLES.iter().filter(|(table, _)| !NOT_COPIED.contains(table)) {
            let read = copy_table(&mut from, &mut to, table, &from_columns, &to_columns).await?;
            copied.push((*table, read));
        }
        for (table, _) in TABLES {
            restore_numbering(&mut to, table, &to_columns).await?;
        }
        let mut tables = Vec::new();
        for (table, read) in copied {
            let mut written = Sum::default();
            let mut pages = Pages::new(table, &to_columns);
            while let Some(rows) = pages.next(&mut to).await? {
                for row in &rows {
                    written.add(row);
                }
            }
            if written.rows != read.rows || written.digest != read.digest {
                return Err(CopyError::Differs {
                    table,
                    source_rows: read.rows,
                    target_rows: written.rows,
                });
            }
            tables.push(CopiedTable {
                table,
                rows: read.rows,
                checksum: read.hexadecimal(),
            });
        }
        copy_installation_times(&mut from, &mut to).await?;
        let rows = tables.iter().map(|table| table.rows).sum();
        audit::insert(&mut to, &entry(rows)).await?;
        to.commit().await?;
        Ok(tables)
    }

    async fn mark_unfinished(&self, source: &str, now: UnixTime) -> Result<(), CopyError> {
        if self.unfinished_copy().await?.is_some() {
            return Ok(());
        }
        if self.schema_version().await? > 0 {
            let mut tx = self.begin().await?;
            refuse_rows(&mut tx).await?;
        }
        let create = format!("CREATE TABLE {MARK} (source TEXT NOT NULL, begun_at BIGINT NOT NULL)");
        let insert = format!("INSERT INTO {MARK} (source, begun_at) VALUES ($1, $2)");
        let mut tx = self.begin().await?;
        in_tx!(&mut tx, |connection| {
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await?;
            sqlx::query(AssertSqlSafe(insert))
                .bind(source)
                .bind(now.0)
                .execute(connection)
                .await?;
        });
        Ok(tx.commit().await?)
    }

    /// A transaction that reads one moment and keeps every writer out until it ends.
    async fn begin_source(&self) -> Result<Tx, StoreError> {
        let Self::Postgres { pool, .. } = self else {
            return self.begin().await;
        };
        let mut tx = pool.begin_with(POSTGRES_SOURCE).await?;
        let tables: Vec<String> = TABLES.iter().map(|(table, _)| format!("\"{table}\"")).collect();
        let lock = format!("LOCK TABLE {} IN SHARE MODE", tables.join(", "));
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await?;
        Ok(Backend::Postgres(tx, None).into())
    }
}

/// When each migration was applied: how sessions are treated that are older than one depends on it.
async fn copy_installation_times(from: &mut Tx, to: &mut Tx) -> Result<(), StoreError> {
    let times: Vec<(i64, i64)> = match &mut from.on {
        Backend::Sqlite(tx) => sqlx::query_as(SQLITE_INSTALLED).fetch_all(&mut **tx).await?,
        Backend::Postgres(tx, _) => sqlx::query_as(POSTGRES_INSTALLED).fetch_all(&mut **tx).await?,
    };
    let update = to.text(SQLITE_SET_INSTALLED, POSTGRES_SET_INSTALLED);
    for (version, at) in times {
        in_tx!(&mut *to, |connection| sqlx::query(update)
            .bind(version)
            .bind(at)
            .execute(connection)
            .await
            .map(|_| ())?);
    }
    Ok(())
}

/// Refuses a target that has rows of its own.
async fn refuse_rows(tx: &mut Tx) -> Result<(), CopyError> {
    let existing = columns(tx, &known_columns().await?).await?;
    for (table, _) in TABLES {
        let has_rows = existing.contains_key(*table) && !MADE_BY_SCHEMA.contains(table) && count(tx, table).await? > 0;
        if has_rows {
            return Err(RestoreError::NotEmpty((*table).to_owned()).into());
        }
    }
    Ok(())
}

async fn copy_table(
    from: &mut Tx,
    to: &mut Tx,
    table: &'static str,
    from_columns: &Columns,
    to_columns: &Columns,
) -> Result<Sum, CopyError> {
    let delete = AssertSqlSafe(format!("DELETE FROM \"{table}\""));
    in_tx!(&mut *to, |connection| sqlx::query(delete)
        .execute(connection)
        .await
        .map(|_| ())?);
    let columns = to_columns.get(table).map(Vec::as_slice).unwrap_or_default();
    let mut sum = Sum::default();
    let mut pages = Pages::new(table, from_columns);
    while let Some(rows) = pages.next(from).await.map_err(CopyError::of_source)? {
        for rows in rows.chunks(ROWS_OF_STATEMENT) {
            write_rows(to, table, columns, rows).await?;
        }
        for row in &rows {
            sum.add(row);
        }
    }
    Ok(sum)
}

/// The rows of one table, a page at a time.
struct Pages {
    table: &'static str,
    select: String,
    is_begun: bool,
    /// SQLite: the rows up to here were read.
    after: i64,
}

impl Pages {
    fn new(table: &'static str, columns: &Columns) -> Self {
        let columns = columns.get(table).map(Vec::as_slice).unwrap_or_default();
        let pairs: Vec<String> = columns
            .iter()
            .map(|Column { name, .. }| format!("'{name}', \"{name}\""))
            .collect();
        Self {
            table,
            select: pairs.join(", "),
            is_begun: false,
            after: i64::MIN,
        }
    }

    /// The next page; none after the last.
    async fn next(&mut self, tx: &mut Tx) -> Result<Option<Vec<Map<String, Value>>>, CopyError> {
        let (table, select) = (self.table, &self.select);
        let texts: Vec<String> = match &mut tx.on {
            Backend::Sqlite(tx) => {
                let page = format!(
                    "SELECT rowid, CAST(json_object({select}) AS TEXT) FROM \"{table}\" WHERE rowid > $1 ORDER BY rowid LIMIT $2"
                );
                let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(page))
                    .bind(self.after)
                    .bind(PAGE)
                    .fetch_all(&mut **tx)
                    .await?;
                self.after = rows.last().map_or(self.after, |(rowid, _)| *rowid);
                rows.into_iter().map(|(_, text)| text).collect()
            }
            Backend::Postgres(tx, _) => {
                if !self.is_begun {
                    let declare = format!(
                        "DECLARE copied CURSOR FOR SELECT CAST(json_build_object({select}) AS TEXT) FROM \"{table}\""
                    );
                    sqlx::raw_sql(AssertSqlSafe(declare)).execute(&mut **tx).await?;
                    self.is_begun = true;
                }
                let fetch = format!("FETCH {PAGE} FROM copied");
                let texts: Vec<String> = sqlx::query_scalar(AssertSqlSafe(fetch))
                    .persistent(false)
                    .fetch_all(&mut **tx)
                    .await?;
                if texts.is_empty() {
                    sqlx::raw_sql("CLOSE copied").execute(&mut **tx).await?;
                }
                texts
            }
        };
        if texts.is_empty() {
            return Ok(None);
        }
        let parse = |text: &String| {
            serde_json::from_str(text).map_err(|error| StoreError::Corrupt {
                table: self.table,
                row: text.chars().take(80).collect(),
                reason: error.to_string(),
            })
        };
        Ok(Some(texts.iter().map(parse).collect::<Result<_, _>>()?))
    }
}

async fn write_rows(
    tx: &mut Tx,
    table: &'static str,
    columns: &[Column],
    rows: &[Map<String, Value>],
) -> Result<(), CopyError> {
    let refused = |column: &str| CopyError::Value {
        table,
        column: column.to_owned(),
    };
    for (name, _) in rows.iter().flatten() {
        if !columns.iter().any(|column| column.name == *name) {
            return Err(refused(name));
        }
    }
    let names: Vec<String> = columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let places: Vec<String> = (0..rows.len())
        .map(|row| {
            let places = (1..=columns.len()).map(|place| format!("${}", row * columns.len() + place));
            format!("({})", places.collect::<Vec<_>>().join(", "))
        })
        .collect();
    // PostgreSQL numbers the rows of such a table itself unless it is told otherwise.
    let overriding = match tx.on {
        Backend::Postgres(..) if columns.iter().any(Column::is_numbered) => "OVERRIDING SYSTEM VALUE",
        _ => "",
    };
    let insert = format!(
        "INSERT INTO \"{table}\" ({}) {overriding} VALUES {}",
        names.join(", "),
        places.join(", ")
    );
    let fits = |column: &Column, value: &Value| match value {
        Value::Null => true,
        Value::String(text) => column.is_text() && !text.contains('\0'),
        Value::Number(number) => !column.is_text() && number.is_i64(),
        _ => false,
    };
    for row in rows {
        let misfit = columns
            .iter()
            .find(|column| !fits(column, row.get(&column.name).unwrap_or(&Value::Null)));
        if let Some(column) = misfit {
            return Err(refused(&column.name));
        }
    }
    in_tx!(tx, |connection| {
        let mut query = sqlx::query(AssertSqlSafe(insert));
        for row in rows {
            for column in columns {
                query = match row.get(&column.name).unwrap_or(&Value::Null) {
                    Value::Null if column.is_text() => query.bind(None::<String>),
                    Value::Null => query.bind(None::<i64>),
                    Value::String(text) => query.bind(text.clone()),
                    other => query.bind(other.as_i64()),
                };
            }
        }
        query.execute(connection).await.map(|_| ())?;
    });
    Ok(())
}

/// Lets PostgreSQL number the next row after the last; SQLite does by itself.
async fn restore_numbering(tx: &mut Tx, table: &str, columns: &Columns) -> Result<(), StoreError> {
    let Backend::Postgres(tx, _) = &mut tx.on else {
        return Ok(());
    };
    for column in columns
        .get(table)
        .into_iter()
        .flatten()
        .filter(|column| column.is_numbered())
    {
        let name = &column.name;
        let set = format!(
            "SELECT setval(pg_get_serial_sequence('\"{table}\"', '{name}'), \
             (SELECT COALESCE(MAX(\"{name}\"), 0) + 1 FROM \"{table}\"), false)"
        );
        sqlx::query(AssertSqlSafe(set)).execute(&mut **tx).await?;
    }
    Ok(())
}
