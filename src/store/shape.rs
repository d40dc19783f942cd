//! Whether the database's schema is the one that the migrations make, part by part: tables, columns, indexes, constraints, triggers and
//! functions, each in the words of the database. What a later version or an administrator added is no fault while it is in the way of no
//! row.

mod part;
mod sqlite;
mod state;

use std::collections::BTreeMap;

use tokio::sync::OnceCell;

use crate::values::Database;

use super::tables::names;
use super::timeout::{in_time, within};
use super::{Db, StoreError};

use part::Part;
use sqlite::Statement;

const POSTGRES_PARTS: &str = include_str!("shape/postgres.sql");

/// What the migrations make in PostgreSQL. A new database cannot be made beside it as with SQLite, so its parts are written down; a test
/// compares them with a new database.
const POSTGRES_PLAIN_NAMES: &str = "SET LOCAL quote_all_identifiers = off";
const POSTGRES_EXPECTED: &str = include_str!("shape/postgres.txt");

/// What the migrations make in SQLite, by a new database in memory.
static SQLITE_EXPECTED: OnceCell<Vec<Part>> = OnceCell::const_new();

/// How a schema differs from the one that the migrations make.
#[derive(Debug, Default)]
struct Differences {
    missing: Vec<String>,
    other: Vec<String>,
    /// Parts that are in the way of rows.
    obstacles: Vec<String>,
}

impl Differences {
    fn of(found: &[Part], expected: &[Part]) -> Self {
        let mut differences = Self::default();
        let mut missing: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
        for part in expected {
            let mut alike = found.iter().filter(|found| found.replaces(part));
            if alike.clone().any(|found| found.is(part) && found.fault.is_empty()) {
                continue;
            }
            match alike.next() {
                Some(other) => differences.other.push(other.difference(part)),
                None => missing.entry(&part.of_table).or_default().push(part),
            }
        }
        for (table, parts) in missing {
            if parts.iter().any(|part| part.kind == "table") {
                differences.missing.push(format!("table {table}"));
            } else {
                differences.missing.extend(parts.iter().map(ToString::to_string));
            }
        }
        let additional = found
            .iter()
            .filter(|found| !expected.iter().any(|part| found.replaces(part)));
        differences.obstacles = additional
            .filter_map(|part| part.obstacle(expected).map(|why| format!("{part}: {why}")))
            .collect();
        differences
    }

    fn refuse(self) -> Result<(), StoreError> {
        let mut faults = Vec::new();
        if !self.missing.is_empty() {
            faults.push(format!("lacks: {}", self.missing.join(", ")));
        }
        faults.extend(self.other);
        if !self.obstacles.is_empty() {
            faults.push(format!("has additional parts ({})", self.obstacles.join(", ")));
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(StoreError::IncompleteSchema {
            faults: faults.join("; "),
        })
    }
}

impl Db {
    /// Refuses a schema that lacks a part or a row that this version needs, whatever the schema's version says. What has only another form
    /// stops no start: it may be another version of the database that writes it so.
    ///
    /// # Errors
    /// What is missing, or that the database does not answer.
    pub async fn require_whole_schema(&self) -> Result<(), StoreError> {
        let differences = self.differences().await?;
        Differences {
            missing: differences.missing,
            ..Differences::default()
        }
        .refuse()
    }

    /// The same, and refuses parts of another form, numbers that are taken, rows that a server makes at its start and are gone, and what was
    /// added in the way of rows.
    ///
    /// # Errors
    /// What is wrong, or that the database does not answer.
    pub async fn require_working_schema(&self) -> Result<(), StoreError> {
        let mut differences = self.differences().await?;
        if differences.missing.is_empty() {
            differences.missing = self.missing_rows_of_start().await?;
        }
        differences.refuse()
    }

    async fn differences(&self) -> Result<Differences, StoreError> {
        let (found, expected) = (self.parts().await?, self.expected_parts().await?);
        let mut differences = Differences::of(&found, &expected);
        let is_exact = differences.other.is_empty() && differences.obstacles.is_empty();
        if !is_exact && !self.has_known_schema().await? {
            // A later version may have changed and added parts, so that this one can go on beside it.
            differences.other.clear();
            differences.obstacles.clear();
        }
        if differences.missing.is_empty() {
            differences.missing = self.missing_rows().await?;
            differences.other.extend(self.wrong_numbers().await?);
        }
        Ok(differences)
    }

    /// All parts of our tables, one in each line: what `postgres.txt` holds.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn schema_text(&self) -> Result<String, StoreError> {
        let parts = self.parts().await?;
        let line = |part: &Part| format!("{}\t{}\t{}\t{}\n", part.of_table, part.kind, part.name, part.definition);
        Ok(parts.iter().map(line).collect())
    }

    async fn expected_parts(&self) -> Result<Vec<Part>, StoreError> {
        match self {
            Self::Sqlite { .. } => Ok(SQLITE_EXPECTED.get_or_try_init(made).await?.clone()),
            Self::Postgres { .. } => Ok(POSTGRES_EXPECTED.lines().filter_map(recorded).collect()),
        }
    }

    async fn parts(&self) -> Result<Vec<Part>, StoreError> {
        let parts: Vec<Part> = match self {
            Self::Sqlite { read, patience, .. } => {
                let statements = async { Ok(sqlx::query_as(sqlite::STATEMENTS).fetch_all(read).await?) };
                let statements: Vec<Statement> = in_time(*patience, statements).await?;
                statements.iter().flat_map(Statement::parts).collect()
            }
            Self::Postgres { pool, patience, .. } => {
                let ours: Vec<&str> = names().collect();
                let parts = async {
                    self.refuse_barred_tables().await?;
                    let mut tx = pool.begin().await?;
                    // It changes how the catalog writes what it holds.
                    sqlx::query(POSTGRES_PLAIN_NAMES).execute(&mut *tx).await?;
                    let parts = sqlx::query_as(POSTGRES_PARTS).bind(ours).fetch_all(&mut *tx).await?;
                    tx.rollback().await?;
                    Ok(parts)
                };
                within(*patience, parts).await?
            }
        };
        let is_ours = |part: &Part| names().any(|name| name == part.of_table);
        let one_line = |mut part: Part| {
            part.definition = part.definition.split_whitespace().collect::<Vec<_>>().join(" ");
            part
        };
        Ok(parts.into_iter().filter(is_ours).map(one_line).collect())
    }
}

async fn made() -> Result<Vec<Part>, StoreError> {
    let db = Db::connect(&Database::SqliteInMemory).await?;
    db.migrate().await?;
    let parts = db.parts().await;
    db.close().await;
    parts
}

fn recorded(line: &str) -> Option<Part> {
    let mut fields = line.split('\t');
    let mut field = || fields.next();
    Some(Part::new(field()?, field()?, field()?, field()?))
}
