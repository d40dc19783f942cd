//! The database as a whole: which schema it has, and whether it is damaged.

use super::backup::SCHEMA;
use super::{Db, StoreError, on_read};

const SQLITE_MIGRATED: &str = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
const POSTGRES_MIGRATED: &str = "SELECT count(*) FROM information_schema.tables \
                                 WHERE table_schema = current_schema() AND table_name = '_sqlx_migrations'";
const SQLITE_CHECK: &str = "PRAGMA integrity_check";

impl Db {
    /// The version of the schema in the database; 0 before the first migration.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn schema_version(&self) -> Result<i64, StoreError> {
        let migrated: i64 = match self {
            Self::Sqlite { read, .. } => sqlx::query_scalar(SQLITE_MIGRATED).fetch_one(read).await?,
            Self::Postgres { pool, .. } => sqlx::query_scalar(POSTGRES_MIGRATED).fetch_one(pool).await?,
        };
        if migrated == 0 {
            return Ok(0);
        }
        Ok(on_read!(self, |pool| sqlx::query_scalar(SCHEMA).fetch_one(pool).await)?)
    }

    /// What SQLite finds wrong with its file; PostgreSQL looks after its own.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn damage(&self) -> Result<Vec<String>, StoreError> {
        let Self::Sqlite { read, .. } = self else {
            return Ok(Vec::new());
        };
        match sqlx::query_scalar::<_, String>(SQLITE_CHECK).fetch_all(read).await {
            Ok(mut lines) => {
                lines.retain(|line| line != "ok");
                Ok(lines)
            }
            // Damaged so badly that the check itself cannot go on.
            Err(sqlx::Error::Database(error)) => Ok(vec![error.to_string()]),
            Err(error) => Err(error.into()),
        }
    }
}
