//! The schema: its migrations, and which of its versions this binary works with.

use super::compatibility::Compatibility;
use super::migrations::{POSTGRES_MIGRATIONS, SQLITE_MIGRATIONS, known_schema};
use super::rights;
use super::{Db, StoreError};

const POSTGRES_ENCODING: &str = "SHOW server_encoding";

/// Whether a migration failed because the role may not change the schema.
fn is_forbidden(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    match error {
        Execute(error) | ExecuteMigration(error, _) => rights::refusal(error).is_some(),
        _ => false,
    }
}

impl Db {
    /// Brings the schema up to date. If it is, no statement changes it, so that a role without this right can serve. PostgreSQL's migrator lets
    /// one node at a time; with SQLite a process that starts in the same moment as others tries again.
    ///
    /// # Errors
    /// When a migration fails, the schema is newer than this binary knows, or the database is not UTF-8.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.require_utf8().await?;
        if matches!(self.compatibility().await?, Compatibility::Same | Compatibility::Later) {
            return Ok(());
        }
        self.require_one_schema().await?;
        match self {
            Self::Postgres { pool, .. } => match POSTGRES_MIGRATIONS.run(pool).await {
                Err(error) if is_forbidden(&error) => {
                    let found = self.schema_version().await?;
                    self.require_creation(found).await?;
                    return Err(error.into());
                }
                answer => answer?,
            },
            Self::Sqlite { write, .. } => {
                // A lost race means that another process has applied one more of them, so there are no more than these.
                let mut answer = SQLITE_MIGRATIONS.run(write).await;
                for _ in SQLITE_MIGRATIONS.iter() {
                    if answer.is_err() {
                        answer = SQLITE_MIGRATIONS.run(write).await;
                    }
                }
                answer?;
            }
        }
        Ok(())
    }

    /// Refuses a database that cannot store every character.
    ///
    /// # Errors
    /// When its encoding is not UTF-8, or the database does not answer.
    pub async fn require_utf8(&self) -> Result<(), StoreError> {
        // SQLite stores UTF-8 or UTF-16, and both hold everything.
        let Self::Postgres { pool, .. } = self else {
            return Ok(());
        };
        let found: String = sqlx::query_scalar(POSTGRES_ENCODING).fetch_one(pool).await?;
        if found == "UTF8" {
            Ok(())
        } else {
            Err(StoreError::NotUtf8 { found })
        }
    }

    /// Refuses a schema that this binary does not work with.
    ///
    /// # Errors
    /// When it is older, or newer and does not say that this binary works with it, or the database does not answer.
    pub async fn require_compatible_schema(&self) -> Result<(), StoreError> {
        let known = known_schema();
        match self.compatibility().await? {
            Compatibility::Same | Compatibility::Later => Ok(()),
            Compatibility::Older => Err(StoreError::OlderSchema {
                found: self.schema_version().await?,
                known,
            }),
            Compatibility::Incompatible => Err(StoreError::NewerSchema {
                found: self.schema_version().await?,
                known,
            }),
        }
    }

    /// Refuses a schema of which this binary does not know every table: it would leave rows out of a copy.
    ///
    /// # Errors
    /// When it is newer, or the database does not answer.
    pub async fn refuse_later_schema(&self) -> Result<(), StoreError> {
        let (found, known) = (self.schema_version().await?, known_schema());
        if found > known {
            return Err(StoreError::NewerSchema { found, known });
        }
        Ok(())
    }
}
