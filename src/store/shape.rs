//! Whether the database has every table, column, index, foreign key and trigger that the migrations make. More is no fault: a later version may have
//! added it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sqlx::FromRow;
use tokio::sync::OnceCell;

use crate::values::Database;

use super::tables::names;
use super::{Db, StoreError, in_time, within};

/// Integers and texts are all the types that there are; a unique index is told by its columns.
const SQLITE_PARTS: &str = "\
    SELECT t.name AS of_table, 'column' AS kind, c.name || CASE c.type WHEN 'TEXT' THEN ' TEXT' ELSE ' BIGINT' END AS name \
    FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' \
    UNION ALL SELECT t.name, 'unique', (SELECT group_concat(name, ', ') FROM \
        (SELECT c.name FROM pragma_index_info(i.name) c ORDER BY c.seqno)) \
    FROM sqlite_master t, pragma_index_list(t.name) i WHERE t.type = 'table' AND i.\"unique\" = 1 AND i.partial = 0 \
    UNION ALL SELECT t.name, 'unique', c.name FROM sqlite_master t, pragma_table_info(t.name) c \
    WHERE t.type = 'table' AND c.pk = 1 AND (SELECT count(*) FROM pragma_table_info(t.name) k WHERE k.pk > 0) = 1 \
    UNION ALL SELECT tbl_name, 'index', name FROM sqlite_master WHERE type = 'index' AND sql LIKE 'CREATE INDEX %' \
    UNION ALL SELECT t.name, 'foreign key', f.\"from\" FROM sqlite_master t, pragma_foreign_key_list(t.name) f WHERE t.type = 'table' \
    UNION ALL SELECT tbl_name, 'trigger', name FROM sqlite_master WHERE type = 'trigger'";
/// The catalog, since the information schema hides what the role has no right to; names are resolved as those of statements are.
const POSTGRES_PARTS: &str = "\
    WITH ours AS (SELECT name, to_regclass(name)::OID AS id FROM unnest($1::TEXT[]) AS listed (name)) \
    SELECT o.name AS of_table, 'column' AS kind, a.attname || CASE format_type(a.atttypid, NULL) WHEN 'text' THEN ' TEXT' \
        WHEN 'bigint' THEN ' BIGINT' ELSE '' END AS name \
    FROM ours o JOIN pg_catalog.pg_attribute a ON a.attrelid = o.id AND a.attnum > 0 AND NOT a.attisdropped \
    UNION ALL SELECT o.name, 'unique', string_agg(a.attname, ', ' ORDER BY k.place) \
    FROM ours o JOIN pg_catalog.pg_index i ON i.indrelid = o.id AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k (attnum, place) \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = o.id AND a.attnum = k.attnum GROUP BY o.name, i.indexrelid \
    UNION ALL SELECT o.name, 'index', x.relname::TEXT \
    FROM ours o JOIN pg_catalog.pg_index i ON i.indrelid = o.id AND i.indisvalid AND NOT i.indisunique \
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
    UNION ALL SELECT o.name, 'foreign key', a.attname \
    FROM ours o JOIN pg_catalog.pg_constraint c ON c.conrelid = o.id AND c.contype = 'f' \
    CROSS JOIN LATERAL unnest(c.conkey) k (attnum) \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = o.id AND a.attnum = k.attnum \
    UNION ALL SELECT o.name, 'function', p.proname::TEXT FROM ours o \
    JOIN pg_catalog.pg_proc p ON p.oid = to_regprocedure('new_change_id()') WHERE o.name = 'clients' AND o.id IS NOT NULL \
    UNION ALL SELECT o.name, 'trigger', g.tgname::TEXT \
    FROM ours o JOIN pg_catalog.pg_trigger g ON g.tgrelid = o.id AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')";

/// The triggers of PostgreSQL, and what they call: SQLite needs one for each kind of change. A test compares this list with the schema.
const POSTGRES_PROGRAMS: [(&str, &str, &str); 3] = [
    ("clients", "trigger", "clients_changed"),
    ("clients", "function", "new_change_id"),
    ("key_version", "trigger", "keys_changed"),
];

/// What the migrations make, by the tables of a new database in memory.
static MADE: OnceCell<Vec<Part>> = OnceCell::const_new();

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, FromRow)]
struct Part {
    of_table: String,
    kind: String,
    name: String,
}

/// What a table lacks.
struct Lack<'a> {
    table: &'a str,
    is_absent: bool,
    parts: Vec<&'a Part>,
}

impl fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_absent {
            return write!(f, "table {}", self.table);
        }
        for (index, part) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match part.kind.as_str() {
                "unique" => write!(f, "{comma}unique index on ({}) of table {}", part.name, self.table)?,
                kind => write!(f, "{comma}{kind} {} of table {}", part.name, self.table)?,
            }
        }
        Ok(())
    }
}

impl Db {
    /// Refuses a schema of which a table, column, index, foreign key or trigger is missing, whatever its version says.
    ///
    /// # Errors
    /// What is missing, or that the database does not answer.
    pub async fn require_whole_schema(&self) -> Result<(), StoreError> {
        let made = MADE.get_or_try_init(made).await?;
        let mut expected: BTreeSet<Part> = made.iter().cloned().collect();
        if matches!(self, Self::Postgres { .. }) {
            expected.retain(|part| part.kind != "trigger");
            expected.extend(POSTGRES_PROGRAMS.map(|(table, kind, name)| Part {
                of_table: table.to_owned(),
                kind: kind.to_owned(),
                name: name.to_owned(),
            }));
        }
        let found = self.parts().await?;
        let mut lacks: BTreeMap<&str, Lack<'_>> = BTreeMap::new();
        for part in expected.iter().filter(|part| !found.contains(part)) {
            let table = part.of_table.as_str();
            let lack = lacks.entry(table).or_insert_with(|| Lack {
                table,
                is_absent: !found.iter().any(|found| found.of_table == part.of_table),
                parts: Vec::new(),
            });
            lack.parts.push(part);
        }
        if lacks.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = lacks.values().map(ToString::to_string).collect();
        Err(StoreError::IncompleteSchema {
            missing: missing.join(", "),
        })
    }

    async fn parts(&self) -> Result<BTreeSet<Part>, StoreError> {
        let parts: Vec<Part> = match self {
            Self::Sqlite { read, patience, .. } => {
                let parts = async { Ok(sqlx::query_as(SQLITE_PARTS).fetch_all(read).await?) };
                in_time(*patience, parts).await?
            }
            Self::Postgres { pool, patience, .. } => {
                let ours: Vec<&str> = names().collect();
                let parts = async {
                    self.refuse_barred_tables().await?;
                    Ok(sqlx::query_as(POSTGRES_PARTS).bind(ours).fetch_all(pool).await?)
                };
                within(*patience, parts).await?
            }
        };
        let is_ours = |part: &Part| names().any(|name| name == part.of_table);
        Ok(parts.into_iter().filter(is_ours).collect())
    }
}

async fn made() -> Result<Vec<Part>, StoreError> {
    let db = Db::connect(&Database::SqliteInMemory).await?;
    db.migrate().await?;
    let parts = db.parts().await?;
    db.close().await;
    Ok(parts.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_part_is_known() {
        let made = made().await.unwrap();
        for (table, kind, name) in [
            ("users", "column", "email TEXT"),
            ("sessions", "column", "generation BIGINT"),
            ("federated_identities", "unique", "provider, subject"),
            ("audit", "unique", "seq"),
            ("clients", "trigger", "clients_deleted"),
        ] {
            let part = Part {
                of_table: table.to_owned(),
                kind: kind.to_owned(),
                name: name.to_owned(),
            };
            assert!(made.contains(&part), "{part:?} is not in {made:#?}");
        }
        for table in names() {
            assert!(made.iter().any(|part| part.of_table == table), "{table}");
        }
    }
}
