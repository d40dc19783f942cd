//! The connections to a database: the embedded one, or a server.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, PgPool, SqlitePool};

use crate::clock::UnixTime;
use crate::keys::trusted_time::Reference;
use crate::values::Database;

use super::StoreError;
use super::kept::KeptConnections;
use super::servers::Servers;
use super::sqlite_file::SqliteFile;
use super::timeout::{ACQUIRE_TIMEOUT, STATEMENT_TIMEOUT, in_time, within};
use super::transaction::POSTGRES_NOW;
use super::{pooling, primary};

const SQLITE_NOW: &str = "SELECT CAST(strftime('%s', 'now') AS INTEGER)";

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
        kept: KeptConnections,
        /// Where they go.
        servers: Arc<Servers>,
        /// How long a statement may take; a command waits as long as it takes.
        patience: Option<Duration>,
    },
}

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
                let kept = KeptConnections::new(pool.clone());
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
