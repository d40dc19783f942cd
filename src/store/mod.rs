//! The only SQL: one text for SQLite and PostgreSQL, one file per table.
//!
//! Columns are 64-bit integers and text. Every statement is a constant and is tested on both databases.

mod advice;
pub mod allowance;
pub mod audit;
pub mod backup;
mod change;
pub mod client_keys;
pub mod clients;
mod clock;
pub mod compatibility;
pub mod copy;
pub mod denied_tokens;
pub mod dump;
pub mod federated_identities;
pub mod federated_logins;
mod health;
pub mod identity_providers;
mod kept;
pub mod key_uses;
pub mod limits;
mod locks;
pub mod look;
pub mod nodes;
pub mod outage;
mod pace;
pub mod passwords;
mod pooling;
mod pools;
mod primary;
pub mod revocation_changes;
mod rights;
mod room;
pub mod sealed;
pub mod secrets;
mod servers;
pub mod sessions;
mod shape;
pub mod signing_keys;
mod sqlite_file;
mod tables;
pub mod tenants;
mod transaction;
pub mod users;
pub mod verifying_keys;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, PgPool, SqlitePool};

use crate::clock::UnixTime;
use crate::keys::trusted_time::Reference;
use crate::values::Database;

use rights::Duty;

use compatibility::Compatibility;
use transaction::POSTGRES_NOW;

pub use change::ChangeId;
pub use kept::Kept;
pub use pace::ROUND_TRIPS;
pub use pools::{PoolUse, waits_for_connections};
pub use rights::needed_rights;
pub use servers::Servers;
pub use sqlite_file::SqliteFile;

/// A database: the embedded one, or the one it grows into.
#[derive(Clone, Debug)]
pub enum Db {
    /// SQLite in WAL mode. Writers would wait for each other in the file, so there is one.
    Sqlite {
        /// Connections that only read.
        read: SqlitePool,
        /// The one that writes.
        write: SqlitePool,
        /// The file; none for a database in memory.
        file: Option<Arc<SqliteFile>>,
        /// How long a statement may take, with the wait for a connection and for another process that writes; a command waits longer.
        patience: Option<Duration>,
    },
    /// PostgreSQL, or a database that speaks its language.
    Postgres {
        /// Connections for everything.
        pool: PgPool,
        /// Those of them that are kept for refreshes.
        kept: Kept,
        /// Where they go.
        servers: Arc<Servers>,
        /// How long a statement may take; a command waits as long as it takes.
        patience: Option<Duration>,
    },
}

/// What can go wrong between us and the database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or answered with an error of its own.
    #[error("{}", told(.0))]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// There is no room for what was to be written.
    #[error("no space is left where the database is: {}", described(.0))]
    Full(#[source] Arc<sqlx::Error>),
    /// No server of the URL accepts writes.
    #[error("no database server can be used: {0}")]
    NoPrimary(String),
    /// A pooler that gives each transaction another connection.
    #[error(
        "database.url leads to a pooler, such as PgBouncer, that gives each transaction or statement another connection to PostgreSQL, but \
         Keyround prepares statements on its connections: set pool_mode=session for this database there, or name PostgreSQL itself in \
         database.url"
    )]
    PooledTransactions,
    /// Somebody else was faster; the whole operation may be tried again.
    #[error("another writer was faster")]
    Conflict,
    /// The commit came so late that the row's publication stamp would lie.
    #[error("the write took too long ({late_by} beyond its deadline); nothing was written")]
    LateCommit {
        /// By how much it was late.
        late_by: crate::clock::Seconds,
    },
    /// A row that this version cannot read.
    #[error("table {table} holds a row that cannot be read ({row}): {reason}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An access token of type JWT would have a client's id as its audience.
    #[error(
        "'{audience}' would be both a client_id and an audience of tokens of type JWT, which then look like ID tokens for that \
         client; choose another id or audience, or --token-type at+jwt"
    )]
    AmbiguousAudience {
        /// The audience and id.
        audience: String,
    },
    /// Not every character can be stored.
    #[error(
        "the encoding of the PostgreSQL database is {found}, which cannot store every name; it must be UTF8: make another one with \
         'CREATE DATABASE ... ENCODING UTF8 TEMPLATE template0', bring what there is with 'pg_dump -E UTF8', and change database.url"
    )]
    NotUtf8 {
        /// The encoding of the database.
        found: String,
    },
    /// The schema is from a later version.
    #[error(
        "the database has schema {found}, but this version of Keyround knows schemas up to {known}; start a newer version, or \
         restore a backup that was taken before the upgrade"
    )]
    NewerSchema {
        /// The version of the database.
        found: i64,
        /// The newest that this binary knows.
        known: i64,
    },
    /// The schema is from an earlier version.
    #[error(
        "the database has schema {found}, but this version of Keyround needs {known}: run 'keyround db migrate', or start a server of \
         this version, which does the same"
    )]
    OlderSchema {
        /// The version of the database.
        found: i64,
        /// The one that this binary needs.
        known: i64,
    },
    /// The role of the database URL may not change the schema.
    #[error(
        "the database has schema {found}, this version of Keyround needs {known}, and the role {role} may not change it: {cure}; see \
         'Roles with the least rights' in docs/operate/postgresql.md"
    )]
    MayNotMigrate {
        /// The role.
        role: String,
        /// Which right is missing, what grants it, and who runs that.
        cure: String,
        /// The version of the database.
        found: i64,
        /// The one that this binary needs.
        known: i64,
    },
    /// The version is right, but not the schema.
    #[error(
        "the database's schema has the right version, but {faults}; put back what was dropped, renamed or changed, or restore a backup \
         into an empty database"
    )]
    IncompleteSchema {
        /// What is missing, what has another form, and what is in the way.
        faults: String,
    },
    /// The role of the database URL may not do what a server does.
    #[error(
        "the role {role} lacks {missing}: as the role that owns the tables, run {grants}; see 'Roles with the least rights' in \
         docs/operate/postgresql.md"
    )]
    MissingRights {
        /// The role.
        role: String,
        /// The rights, with their tables.
        missing: String,
        /// The statements that grant them.
        grants: String,
        /// Whether every table can be read.
        reads: bool,
    },
    /// The role of the database URL does not own the tables, and may change what a server only appends to.
    #[error(
        "the role {role} has more rights than a server needs: {surplus}; as the role that owns the tables, or as an administrator, run \
         {revokes}; see 'Roles with the least rights' in docs/operate/postgresql.md"
    )]
    SurplusRights {
        /// The role.
        role: String,
        /// The rights, with their tables.
        surplus: String,
        /// The statements that take them away.
        revokes: String,
    },
    /// Row security hides rows from the role of the database URL, such as those of denied tokens.
    #[error(
        "row security hides rows of {tables} from the role {role}, so that what was revoked could be taken for valid: as the role that owns \
         the tables, run {cure}"
    )]
    HiddenRows {
        /// The tables.
        tables: String,
        /// The role.
        role: String,
        /// The statements that end it.
        cure: String,
    },
    /// The SQLite file is not the one at its path.
    #[error("{change}")]
    FileReplaced {
        /// What became of it, and what follows from that.
        change: String,
    },
    /// Every statement of a look is slow.
    #[error(
        "the database answers too slowly: the first statement of a look took {took} ms, and a look of up to {} round trips must be done \
         within {limit} ms, so that each may take {most} ms; see 'Latency' in docs/operate/postgresql.md",
        ROUND_TRIPS
    )]
    SlowLook {
        /// How long the first statement took, in milliseconds.
        took: u64,
        /// How long all of them may take.
        limit: u64,
        /// How long each round trip may take.
        most: u64,
    },
    /// A session holds a lock on tables for longer than a second.
    #[error(
        "{holder} holds a lock on {tables}, or waits for it, and requests that need these tables are refused with 503: end what it does, or \
         run {cure}"
    )]
    Locked {
        /// The tables, each with the mode of the lock.
        tables: String,
        /// Who holds it.
        holder: String,
        /// The statement that ends it.
        cure: String,
    },
    /// New tables would not be made beside those that there are.
    #[error(
        "the tables lie in the schema {found}, but new ones would be made in the schema {first}, which comes first in the search path; run \
         ALTER ROLE ... SET search_path = {found} for the role of database.url, or drop the schema {first}"
    )]
    TwoSchemas {
        /// That of the tables.
        found: String,
        /// The first of the search path.
        first: String,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date: {}", described_migration(.0))]
    Migration(#[source] Arc<sqlx::migrate::MigrateError>),
}

impl StoreError {
    /// Why an SQLite file cannot be used, for a person; the code of SQLite says it in its lowest octet.
    #[must_use]
    pub fn about_file(&self) -> Option<&'static str> {
        let Self::Unavailable(error) = self else { return None };
        Some(match sqlite_code(error)? & 0xff {
            8 => {
                "this user may not write it or its folder; let this user write both, or mount their file system for writing"
            }
            10 => "its disk failed, or is full; make room there, or look at what the system's log says of the disk",
            11 => "it is damaged; restore the newest backup into an empty database",
            14 => {
                "it cannot be opened: its folder does not exist, or this user may not use it; make the folder and let this user write in it"
            }
            26 => "it is not an SQLite database; name another file",
            _ => return None,
        })
    }

    /// Which right the role of the database URL lacks, and what grants it.
    #[must_use]
    pub fn missing_right(&self, role: Option<&str>) -> Option<String> {
        let Self::Unavailable(error) = self else { return None };
        rights::refusal(error).map(|message| rights::explained(message, role, Duty::Rows))
    }

    /// The same, where the role is to make the tables.
    #[must_use]
    pub fn missing_right_to_tables(&self, role: Option<&str>) -> Option<String> {
        let Self::Unavailable(error) = self else { return None };
        rights::refusal(error).map(|message| rights::explained(message, role, Duty::Tables))
    }

    /// What the driver said, without the words that go before it.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable(error) | Self::Full(error) => described(error),
            other => other.to_string(),
        }
    }
}

/// PostgreSQL answers well when it refuses.
fn told(error: &sqlx::Error) -> String {
    rights::refusal(error).map_or_else(
        || format!("the database did not answer: {}", described(error)),
        |message| {
            format!(
                "the database refuses it: {}",
                rights::explained(message, None, Duty::Rows)
            )
        },
    )
}

/// The reason alone, without the words that the driver puts before it. Its words for a wait that was too long speak of a pool.
fn described(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Configuration(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::PoolTimedOut => format!(
            "no connection to it was made or became free within {} s",
            ACQUIRE_TIMEOUT.as_secs()
        ),
        other => other.to_string(),
    }
}

/// The same of a migration: the driver's words for an error of PostgreSQL end with a line of PostgreSQL's source.
fn described_migration(error: &sqlx::migrate::MigrateError) -> String {
    match error {
        sqlx::migrate::MigrateError::Execute(error) => described(error),
        sqlx::migrate::MigrateError::ExecuteMigration(error, version) => {
            format!("migration {version}: {}", described(error))
        }
        other => other.to_string(),
    }
}

fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    error.code()?.parse().ok()
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::VersionMissing(found) if found > known_schema() => Self::NewerSchema {
                found,
                known: known_schema(),
            },
            sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _)
                if is_full(&error) =>
            {
                Self::Full(Arc::new(error))
            }
            other => Self::Migration(Arc::new(other)),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // 40001 and 40P01: serialisation failure and deadlock of PostgreSQL; 5 and 6 with their kin: SQLite is busy.
        const RETRY: [&str; 7] = ["40001", "40P01", "5", "6", "261", "262", "517"];
        let retry = error.as_database_error().is_some_and(|error| {
            error.is_unique_violation() || error.code().is_some_and(|code| RETRY.contains(&&*code))
        });
        primary::note(&error);
        if matches!(error, sqlx::Error::PoolTimedOut) {
            pools::note_timeout();
        }
        if retry {
            Self::Conflict
        } else if is_full(&error) {
            room::note_full();
            Self::Full(Arc::new(error))
        } else if pooling::is_sign(&error) {
            Self::PooledTransactions
        } else {
            Self::Unavailable(Arc::new(error))
        }
    }
}

/// SQLite's codes for a full disk, and PostgreSQL's (53100).
fn is_full(error: &sqlx::Error) -> bool {
    if let Some(code) = sqlite_code(error) {
        // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE: the file of shared memory could not grow.
        return matches!(code, 13 | 4874);
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "53100")
}

/// One body, one text, either pool: where reading happens.
macro_rules! on_read {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::store::Db::Sqlite {
                read: $pool, patience, ..
            } => $crate::store::in_time(*patience, async { Ok::<_, $crate::store::StoreError>($body) }).await?,
            $crate::store::Db::Postgres {
                pool: $pool, patience, ..
            } => $crate::store::within(*patience, async { Ok::<_, $crate::store::StoreError>($body) }).await?,
        }
    };
}

/// One body, one text, either pool: a single statement that writes.
macro_rules! on_write {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::store::Db::Sqlite {
                write: $pool, patience, ..
            } => $crate::store::in_time(*patience, async { Ok::<_, $crate::store::StoreError>($body) }).await?,
            $crate::store::Db::Postgres {
                pool: $pool, patience, ..
            } => $crate::store::within(*patience, async { Ok::<_, $crate::store::StoreError>($body) }).await?,
        }
    };
}

pub(crate) use transaction::{Tx, in_tx};
pub(crate) use {on_read, on_write};

/// Ends a wait for a PostgreSQL server that went silent, as one does that is stopped or cut off. Without a limit, it is waited for.
async fn within<T>(
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = in_time(limit, Box::pin(answer)).await;
    if let Err(StoreError::Unavailable(error)) = &answer
        && matches!(&**error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
    {
        primary::distrust();
    }
    answer
}

/// Ends a wait. SQLite rolls back a transaction that begins after it.
async fn in_time<T>(
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    // On the heap: each layer of futures around it would hold it twice.
    let answer = Box::pin(answer);
    let Some(limit) = limit else { return answer.await };
    let is_cut_short = allowance::is_less_than(limit);
    match allowance::limited(limit, answer).await {
        Some(answer) => answer,
        None if is_cut_short => Err(allowance::used_up()),
        None => Err(StoreError::Unavailable(Arc::new(sqlx::Error::Io(
            std::io::ErrorKind::TimedOut.into(),
        )))),
    }
}

static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// The newest version of the schema that this binary knows.
#[must_use]
pub fn known_schema() -> i64 {
    SQLITE_MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// Whether a migration failed because the role may not change the schema.
fn is_forbidden(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    match error {
        Execute(error) | ExecuteMigration(error, _) => rights::refusal(error).is_some(),
        _ => false,
    }
}

/// The versions that this binary knows, in order.
fn known_versions() -> impl Iterator<Item = i64> {
    SQLITE_MIGRATIONS.iter().map(|migration| migration.version)
}

/// For how long a node remembers a change that can be taken back, in case the database loses it. What a failover loses is seconds
/// old.
pub const REMEMBERED: Duration = Duration::from_hours(1);

const SQLITE_NOW: &str = "SELECT CAST(strftime('%s', 'now') AS INTEGER)";
const POSTGRES_ENCODING: &str = "SHOW server_encoding";

/// How many connections to PostgreSQL a node has at most: enough to keep its processors busy, and so few that five nodes fit
/// into the hundred that it takes by default.
const CONNECTIONS: u32 = 20;
/// How long a statement of a command may wait for another process that writes to the same SQLite file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever commits when the log has so many pages copies them into the file, while nobody else can write: a thousand, as is usual, take
/// 20 ms when they are scattered, as those of a prune are.
const CHECKPOINT_PAGES: &str = "100";
/// How many octets of the log are kept once everything in it is in the file: a slow reader lets it grow.
const LOG_SIZE_LIMIT: &str = "1048576";
/// How long a request may wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement of a server may take, with the wait for a connection. Those of one request share [`allowance::ALLOWANCE`].
pub const STATEMENT_TIMEOUT: Duration = Duration::from_millis(1_400);

impl Db {
    /// Opens the database, making an SQLite file that does not exist.
    ///
    /// # Errors
    /// When nothing answers there.
    pub async fn connect(database: &Database) -> Result<Self, StoreError> {
        match database {
            Database::Postgres(url) => {
                let options = PgPoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .acquire_timeout(ACQUIRE_TIMEOUT);
                let servers = Arc::new(Servers::new(url)?);
                let server = servers.find().await?;
                pooling::refuse(&server).await?;
                let pool = primary::writable_only(options).connect_with(server).await?;
                if servers.are_several() {
                    tokio::spawn(Arc::clone(&servers).follow(pool.clone()));
                }
                let kept = Kept::new(pool.clone());
                Ok(Self::Postgres {
                    pool,
                    kept,
                    servers,
                    patience: None,
                })
            }
            Database::Sqlite { path } => {
                if path.metadata().map_or(true, |file| file.len() == 0) {
                    // `db prune` gives free pages back. A file from an earlier version changes to this with its first prune.
                    let options = sqlite_options().auto_vacuum(SqliteAutoVacuum::Incremental);
                    let made = options.filename(path).create_if_missing(true).connect().await?;
                    made.close().await?;
                }
                let file = Arc::new(SqliteFile::at(path).map_err(sqlx::Error::Io)?);
                let options = sqlite_options().filename(file.path());
                let write = sqlite_file_pool(1, &file).connect_with(options.clone()).await?;
                let read = sqlite_file_pool(4, &file).connect_with(options.read_only(true)).await?;
                file.remember_companions();
                Ok(Self::Sqlite {
                    read,
                    write,
                    file: Some(file),
                    patience: None,
                })
            }
            Database::SqliteInMemory => {
                // Such a database lives in its one connection, which therefore reads as well, and is never given up.
                let pool = sqlite_pool(1)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_with(sqlite_options().in_memory(true))
                    .await?;
                Ok(Self::Sqlite {
                    read: pool.clone(),
                    write: pool,
                    file: None,
                    patience: None,
                })
            }
        }
    }

    /// The same database for a server, whose requests want an answer soon.
    #[must_use]
    pub fn with_patience(self) -> Self {
        match self {
            Self::Postgres {
                pool, kept, servers, ..
            } => Self::Postgres {
                pool,
                kept,
                servers,
                patience: Some(STATEMENT_TIMEOUT),
            },
            Self::Sqlite { read, write, file, .. } => Self::Sqlite {
                read,
                write,
                file,
                patience: Some(STATEMENT_TIMEOUT),
            },
        }
    }

    /// Why the database cannot be used, by each of its servers; nothing when one of them accepts writes.
    pub async fn trouble(&self) -> Option<String> {
        match self {
            Self::Postgres { servers, .. } => servers.trouble().await,
            Self::Sqlite { .. } => None,
        }
    }

    /// Brings the schema up to date. If it is, no statement changes it, so that a role without this right can serve. PostgreSQL's migrator lets one node at a time; with SQLite a process that
    /// starts in the same moment as others tries again.
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

    /// The time by the database's clock. SQLite's is this machine's.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn now(&self) -> Result<UnixTime, StoreError> {
        let seconds: i64 = match self {
            Self::Sqlite { read, patience, .. } => {
                in_time(*patience, async {
                    Ok(sqlx::query_scalar(SQLITE_NOW).fetch_one(read).await?)
                })
                .await?
            }
            Self::Postgres { pool, patience, .. } => {
                within(*patience, async {
                    Ok(sqlx::query_scalar(POSTGRES_NOW).fetch_one(pool).await?)
                })
                .await?
            }
        };
        Ok(UnixTime(seconds))
    }

    /// What this machine's clock is held against: PostgreSQL's clock, or nothing but itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn time_reference(&self) -> Result<Reference, StoreError> {
        match self {
            Self::Sqlite { .. } => Ok(Reference::Monotonic),
            Self::Postgres { .. } => Ok(Reference::Database(self.now().await?)),
        }
    }

    /// Ends every connection, waiting for those in use.
    pub async fn close(&self) {
        match self {
            Self::Sqlite { read, write, .. } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres { pool, kept, .. } => {
                let closed = pool.close();
                kept.give_back();
                closed.await;
            }
        }
    }
}

fn sqlite_options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", LOG_SIZE_LIMIT)
        // What was deleted is overwritten: it may be a person's address.
        .pragma("secure_delete", "ON")
        .busy_timeout(BUSY_TIMEOUT)
}

fn sqlite_pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A connection to a file does not die unheard.
        .test_before_acquire(false)
}

/// After a write that failed (a full disk, an I/O error) SQLite has rolled the transaction back by itself, and the driver still counts it.
/// No transaction can begin on such a connection, so it is closed and the pool opens another. A database in memory would be lost with
/// its connection, and has no disk that fills.
///
/// A connection lives for half an hour at most, and the next one opens the file again: it must be the first one still.
fn sqlite_file_pool(connections: u32, file: &Arc<SqliteFile>) -> SqlitePoolOptions {
    let file = Arc::clone(file);
    sqlite_pool(connections)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .after_connect(move |_, _| {
            let same = file.require_same();
            Box::pin(async move { same })
        })
}
