//! The database as a whole: which schema it has, and whether it is damaged.

use sqlx::AssertSqlSafe;

use super::compatibility::{Compatibility, MigrationStep, compatibility, pending};
use super::migrations::{POSTGRES_MIGRATIONS, SQLITE_MIGRATIONS};
use super::nodes::{self, Heartbeat, Place, beat};
use super::room;
use super::{Db, StoreError, in_tx, on_read};
use crate::clock::{Seconds, UnixTime};

const SQLITE_MIGRATED: &str = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
/// Found as statements find it. New tables go into the first schema of the search path that exists, which may be another one.
const POSTGRES_MIGRATED: &str = "SELECT count(to_regclass('_sqlx_migrations'))";
const POSTGRES_ELSEWHERE: &str = "SELECT s.nspname::TEXT, current_schema()::TEXT FROM pg_catalog.pg_class t \
                                  JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace \
                                  WHERE t.oid = to_regclass('_sqlx_migrations') AND s.nspname <> current_schema()";
/// A schema of the search path that PostgreSQL passes over because the role may not use it: the one that has our tables, else the first.
const POSTGRES_BARRED: &str = "SELECT s.nspname::TEXT FROM pg_catalog.unnest(string_to_array(current_setting('search_path'), ',')) \
    WITH ORDINALITY AS path (name, place) \
    JOIN pg_catalog.pg_namespace s ON s.nspname = replace(trim(BOTH '\" ' FROM path.name), '$user', current_user) \
    LEFT JOIN pg_catalog.pg_class t ON t.relnamespace = s.oid AND t.relname = '_sqlx_migrations' \
    WHERE NOT pg_catalog.has_schema_privilege(s.oid, 'USAGE') AND (t.oid IS NOT NULL OR current_schema() IS NULL) \
    ORDER BY t.oid IS NULL, path.place LIMIT 1";
const SQLITE_SIZE: &str = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
/// What `PRAGMA auto_vacuum` answers for a file whose free pages can be given back.
const INCREMENTAL: i64 = 2;
const APPLIED: &str = "SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version";
const SQLITE_CHECK: &str = "PRAGMA integrity_check";

const SQLITE_INSTALLED: &str =
    "SELECT CAST(strftime('%s', installed_on) AS INTEGER) FROM _sqlx_migrations WHERE version = $1";
const POSTGRES_INSTALLED: &str =
    "SELECT CAST(floor(extract(epoch FROM installed_on)) AS BIGINT) FROM _sqlx_migrations WHERE version = $1";

/// The first migration.
const FIRST: i64 = 1;
/// The migration that came with the cookie that binds a session to its browser.
const BINDING_COOKIE: i64 = 21;
/// How long the migrations of a new database take at most.
const NEW: Seconds = Seconds(60);
/// How long after the migration nodes of the version before may still begin sessions.
const ROLLING_UPGRADE: Seconds = Seconds(86_400);

impl Db {
    /// A session that began before this time may come without the cookie that binds it to its browser: the version before the migration
    /// set none. In a database that this version made there are no such sessions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unbound_sessions_until(&self) -> Result<UnixTime, StoreError> {
        let mut installed = [0; 2];
        for (at, version) in installed.iter_mut().zip([FIRST, BINDING_COOKIE]) {
            let found: Option<i64> = match self {
                Self::Sqlite { read, .. } => {
                    sqlx::query_scalar(SQLITE_INSTALLED)
                        .bind(version)
                        .fetch_optional(read)
                        .await?
                }
                Self::Postgres { pool, .. } => {
                    sqlx::query_scalar(POSTGRES_INSTALLED)
                        .bind(version)
                        .fetch_optional(pool)
                        .await?
                }
            };
            *at = found.unwrap_or(0);
        }
        let [first, migrated] = installed.map(UnixTime);
        Ok(if migrated - first < NEW {
            UnixTime(0)
        } else {
            migrated + ROLLING_UPGRADE
        })
    }

    /// The version of the schema in the database; 0 before the first migration.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn schema_version(&self) -> Result<i64, StoreError> {
        let last = self.applied_migrations().await?.pop();
        Ok(last.map_or(0, |(version, _)| version))
    }

    /// Whether the schema is the one that this binary knows.
    pub(super) async fn has_known_schema(&self) -> Result<bool, StoreError> {
        Ok(compatibility(&self.applied_migrations().await?) == Compatibility::Same)
    }

    /// Whether this binary works with the schema that there is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn compatibility(&self) -> Result<Compatibility, StoreError> {
        Ok(compatibility(&self.applied_migrations().await?))
    }

    /// What this binary would change of the schema, in order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pending_steps(&self) -> Result<Vec<MigrationStep>, StoreError> {
        let known = match self {
            Self::Sqlite { .. } => &SQLITE_MIGRATIONS,
            Self::Postgres { .. } => &POSTGRES_MIGRATIONS,
        };
        Ok(pending(&self.applied_migrations().await?, known))
    }

    async fn applied_migrations(&self) -> Result<Vec<(i64, String)>, StoreError> {
        let migrated: i64 = match self {
            Self::Sqlite { read, .. } => sqlx::query_scalar(SQLITE_MIGRATED).fetch_one(read).await?,
            Self::Postgres { pool, .. } => sqlx::query_scalar(POSTGRES_MIGRATED).fetch_one(pool).await?,
        };
        if migrated == 0 {
            self.refuse_barred_schema().await?;
            return Ok(Vec::new());
        }
        Ok(on_read!(self, |pool| sqlx::query_as(APPLIED).fetch_all(pool).await)?)
    }

    /// Refuses to make tables in another schema than that of the tables that there are.
    pub(super) async fn require_one_schema(&self) -> Result<(), StoreError> {
        let Self::Postgres { pool, .. } = self else {
            return Ok(());
        };
        let elsewhere: Option<(String, String)> = sqlx::query_as(POSTGRES_ELSEWHERE).fetch_optional(pool).await?;
        elsewhere.map_or(Ok(()), |(found, first)| Err(StoreError::TwoSchemas { found, first }))
    }

    /// The same, where our tables are not found. Without USAGE on the schema no table is found in it.
    pub(super) async fn refuse_barred_tables(&self) -> Result<(), StoreError> {
        let found: i64 = match self {
            Self::Sqlite { .. } => return Ok(()),
            Self::Postgres { pool, .. } => sqlx::query_scalar(POSTGRES_MIGRATED).fetch_one(pool).await?,
        };
        if found == 0 {
            self.refuse_barred_schema().await
        } else {
            Ok(())
        }
    }

    /// Fails as a statement does that names the schema, so that a right that is missing does not look like a table that is.
    pub(super) async fn refuse_barred_schema(&self) -> Result<(), StoreError> {
        let Self::Postgres { pool, .. } = self else {
            return Ok(());
        };
        let barred: Option<String> = sqlx::query_scalar(POSTGRES_BARRED).fetch_optional(pool).await?;
        if let Some(schema) = barred {
            let named = schema.replace('"', "\"\"");
            let select = AssertSqlSafe(format!("SELECT 1 FROM \"{named}\"._sqlx_migrations LIMIT 1"));
            sqlx::query(select).execute(pool).await?;
        }
        Ok(())
    }

    /// Gives the free pages of an SQLite file back to the file system, and empties its log; answers with the size of the file before and
    /// after, in octets. PostgreSQL does this by itself.
    ///
    /// # Errors
    /// When the database does not answer, or is in use for too long.
    pub async fn give_space_back(&self) -> Result<Option<(i64, i64)>, StoreError> {
        let Self::Sqlite { write, .. } = self else {
            return Ok(None);
        };
        let size = async || sqlx::query_scalar::<_, i64>(SQLITE_SIZE).fetch_one(write).await;
        let before = size().await?;
        if sqlx::query_scalar::<_, i64>("PRAGMA auto_vacuum")
            .fetch_one(write)
            .await?
            == INCREMENTAL
        {
            // A little at a time: a server writes between two of them.
            while sqlx::query_scalar::<_, i64>("PRAGMA freelist_count")
                .fetch_one(write)
                .await?
                > 0
            {
                sqlx::raw_sql("PRAGMA incremental_vacuum(100)").execute(write).await?;
            }
        } else {
            sqlx::raw_sql("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
                .execute(write)
                .await?;
        }
        self.empty_log().await?;
        Ok(Some((before, size().await?)))
    }

    /// Moves SQLite's write-ahead log into the file and empties it, so that no older state of a page is left in it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn empty_log(&self) -> Result<(), StoreError> {
        if let Self::Sqlite { write, .. } = self {
            sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(write).await?;
        }
        Ok(())
    }

    /// Commits a write that leaves nothing behind: reads succeed on a full disk, and on a database that takes no writes. PostgreSQL needs new
    /// pages for it.
    ///
    /// # Errors
    /// Why it could not be committed.
    pub async fn probe_write(&self) -> Result<(), StoreError> {
        let probe = Heartbeat {
            node_id: format!("probe {}", uuid::Uuid::new_v4()),
            seen_at: 0,
            version: 0,
            change_id: None,
            policy_fingerprint: match self {
                Self::Sqlite { .. } => String::new(),
                Self::Postgres { .. } => room::large_text(),
            },
            clock_offset: 0,
            master_keys: String::new(),
            place: Place::default(),
        };
        let mut tx = self.begin().await?;
        // No other connection sees the row.
        in_tx!(&mut tx, |connection| {
            beat!(probe, &mut *connection)?;
            sqlx::query(nodes::LEAVE)
                .bind(&probe.node_id)
                .execute(&mut *connection)
                .await
                .map(|_| ())?;
        });
        tx.commit().await
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
            Err(sqlx::Error::Database(error)) => Ok(vec![error.message().to_owned()]),
            Err(error) => Err(error.into()),
        }
    }
}
