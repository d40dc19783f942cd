//! What a schema must hold beside its parts: the rows that are always there, and numbers that are free.

use sqlx::{AssertSqlSafe, FromRow};

use crate::events::Entry;
use crate::store::tables::names;
use crate::store::timeout::within;
use crate::store::{ChangeId, Db, StoreError, audit, on_read, rights};

/// The rows that the migrations insert, with the name of the last change where there is one.
const ROWS: &str = "SELECT 'client_changes' AS of_table, (SELECT change_id FROM client_changes WHERE id = 1) AS found \
    UNION ALL SELECT 'key_version', (SELECT change_id FROM key_version WHERE id = 1) \
    UNION ALL SELECT 'clock', (SELECT 'found' FROM clock WHERE id = 1)";

/// The rows that a server makes at its start, before it makes the first key.
const ROWS_OF_START: &str = "SELECT 'tenants' AS of_table, (SELECT tenant_id FROM tenants WHERE tenant_id = 'default') AS found \
    WHERE EXISTS (SELECT 1 FROM signing_keys) \
    UNION ALL SELECT 'secrets', (SELECT name FROM secrets WHERE name = 'client-secret-hash-key') \
    WHERE EXISTS (SELECT 1 FROM signing_keys)";

/// The columns that PostgreSQL numbers, each with its sequence as a statement names it.
const POSTGRES_NUMBERED: &str = "\
    SELECT o.name AS of_table, a.attname::TEXT AS of_column, p.objid::regclass::TEXT AS sequence, \
        has_sequence_privilege(p.objid, 'SELECT') AND has_table_privilege(o.id, 'SELECT') AS may_read \
    FROM (SELECT name, to_regclass(name)::OID AS id FROM unnest($1::TEXT[]) AS listed (name)) o \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = o.id AND a.attidentity <> '' AND NOT a.attisdropped \
    JOIN pg_catalog.pg_depend p ON p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass \
        AND p.refobjid = o.id AND p.refobjsubid = a.attnum AND p.deptype = 'i' \
    JOIN pg_catalog.pg_sequence s ON s.seqrelid = p.objid ORDER BY 1, 2";

const SQLITE_NUMBERS: &str = "SELECT name, seq FROM sqlite_sequence";

#[derive(FromRow)]
struct StateRow {
    of_table: String,
    found: Option<String>,
}

#[derive(FromRow)]
struct Numbered {
    of_table: String,
    of_column: String,
    sequence: String,
    may_read: bool,
}

impl Db {
    pub(super) async fn missing_rows(&self) -> Result<Vec<String>, StoreError> {
        let mut missing = Vec::new();
        for StateRow { of_table, found } in self.rows(ROWS).await? {
            let id = self.new_change_id();
            let cure = match of_table.as_str() {
                "client_changes" => format!("INSERT INTO client_changes (id, changes, change_id) VALUES (1, 0, {id})"),
                "key_version" => format!(
                    "INSERT INTO key_version (id, version, change_id) SELECT 1, COALESCE(MAX(version), 0) + 1, {id} FROM nodes"
                ),
                _ => "INSERT INTO clock (id, reached, confirmed) VALUES (1, 0, 0)".to_owned(),
            };
            match found {
                None => missing.push(format!("the row of table {of_table} (run {cure})")),
                Some(found) if of_table != "clock" && ChangeId::read("", &found).is_err() => missing.push(format!(
                    "the change_id of table {of_table} (run UPDATE {of_table} SET change_id = {id})"
                )),
                Some(_) => (),
            }
        }
        Ok(missing)
    }

    pub(super) async fn missing_rows_of_start(&self) -> Result<Vec<String>, StoreError> {
        let rows = self.rows(ROWS_OF_START).await?;
        let missing = rows.into_iter().filter(|row| row.found.is_none());
        Ok(missing
            .map(|row| match row.of_table.as_str() {
                "tenants" => "row default of table tenants (the start of a server makes it)".to_owned(),
                table => format!(
                    "the row of table {table} that passwords and client secrets are checked with (only a backup has it)"
                ),
            })
            .collect())
    }

    /// A right that is missing is another check's.
    async fn rows(&self, text: &'static str) -> Result<Vec<StateRow>, StoreError> {
        let rows = async {
            Ok::<Vec<StateRow>, StoreError>(on_read!(self, |pool| sqlx::query_as(text).fetch_all(pool).await?))
        };
        match rows.await {
            Err(StoreError::Unavailable(error)) if rights::refusal(&error).is_some() => Ok(Vec::new()),
            rows => rows,
        }
    }

    const fn new_change_id(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "lower(hex(randomblob(16)))",
            Self::Postgres { .. } => "new_change_id()",
        }
    }

    /// What is wrong with the numbers that the database gives to rows. SQLite looks at the highest by itself. What the role may not read
    /// is left out: it needs no right to a sequence to get a number.
    pub(super) async fn wrong_numbers(&self) -> Result<Vec<String>, StoreError> {
        let (pool, patience) = match self {
            Self::Sqlite { .. } => {
                let numbers: Vec<(String, i64)> =
                    on_read!(self, |pool| sqlx::query_as(SQLITE_NUMBERS).fetch_all(pool).await?);
                let used_up = numbers
                    .iter()
                    .filter(|(table, last)| *last == i64::MAX && names().any(|name| name == table));
                return Ok(used_up.map(|(table, _)| used_up_of(table)).collect());
            }
            Self::Postgres { pool, patience, .. } => (pool, *patience),
        };
        let numbered = self.numbered().await?;
        let mut wrong = Vec::new();
        for numbered in numbered.iter().filter(|numbered| numbered.may_read) {
            let Numbered {
                of_table,
                of_column,
                sequence,
                ..
            } = numbered;
            let text = AssertSqlSafe(format!(
                "SELECT last_value, is_called, (SELECT MAX({of_column}) FROM {of_table}) FROM {sequence}"
            ));
            let (last, is_called, highest): (i64, bool, Option<i64>) =
                within(patience, async { Ok(sqlx::query_as(text).fetch_one(pool).await?) }).await?;
            let (next, highest) = (last.saturating_add(is_called.into()), highest.unwrap_or(0));
            if is_called && last == i64::MAX {
                wrong.push(used_up_of(of_table));
            } else if next <= highest {
                wrong.push(behind(
                    of_table,
                    of_column,
                    &format!("{next} next, but numbers up to {highest}"),
                    highest,
                ));
            }
        }
        Ok(wrong)
    }

    async fn numbered(&self) -> Result<Vec<Numbered>, StoreError> {
        let Self::Postgres { pool, patience, .. } = self else {
            return Ok(Vec::new());
        };
        let ours: Vec<&str> = names().collect();
        within(*patience, async {
            Ok(sqlx::query_as(POSTGRES_NUMBERED).bind(ours).fetch_all(pool).await?)
        })
        .await
    }

    /// Whether the numbers of the audit log are free where the role may not look at them: by a record that is taken back. Its number is
    /// lost.
    ///
    /// # Errors
    /// That the next number is taken, or why nothing can be recorded.
    pub async fn probe_numbers(&self, entry: &Entry) -> Result<(), StoreError> {
        let numbered = self.numbered().await?;
        let Some(audit) = numbered
            .iter()
            .find(|numbered| numbered.of_table == "audit" && !numbered.may_read)
        else {
            return Ok(());
        };
        let mut tx = self.begin().await?;
        match audit::insert(&mut tx, entry).await {
            Err(StoreError::Conflict) => {
                drop(tx);
                let newest = self.audit(None, 1).await?.first().map_or(0, |record| record.seq);
                Err(StoreError::IncompleteSchema {
                    faults: behind(&audit.of_table, &audit.of_column, "numbers that", newest),
                })
            }
            answer => answer.map(drop),
        }
    }
}

fn behind(table: &str, column: &str, which: &str, highest: i64) -> String {
    format!(
        "column {column} of table {table} gets {which} are taken: as the role that owns the tables, run ALTER TABLE {table} ALTER COLUMN \
         {column} RESTART WITH {}",
        highest.saturating_add(1)
    )
}

fn used_up_of(table: &str) -> String {
    format!("the numbers of table {table} are used up: restore a backup into an empty database")
}
