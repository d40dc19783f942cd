//! What can go wrong between this server and its database.

use std::sync::Arc;

use crate::clock::Seconds;

use super::migrations::known_schema;
use super::pace::ROUND_TRIPS;
use super::rights::{self, Duty};
use super::timeout::ACQUIRE_TIMEOUT;
use super::{pooling, pools, primary, room};

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
        late_by: Seconds,
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
pub(super) fn described(error: &sqlx::Error) -> String {
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

pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
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
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    if let Some(code) = sqlite_code(error) {
        // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE: the file of shared memory could not grow.
        return matches!(code, 13 | 4874);
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "53100")
}
