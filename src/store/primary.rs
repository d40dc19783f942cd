//! Connections to the PostgreSQL server that accepts writes, and to no other.
//!
//! After a switchover the old primary goes on as a standby: it accepts connections and answers reads, but no write succeeds there.
//! So each new connection is checked, and an error that means that its server is not the primary any more ends every connection
//! that is older than the error.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, Row};

use tokio::sync::watch;

use crate::clock::{Clock, sleep};

/// Every statement sees what is committed before it, whatever the database's default is: with a stricter one, two that end a session at
/// once would refuse each other.
const IS_READ_ONLY: &str =
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; SHOW transaction_read_only";

/// How long an idle connection may take to answer before it is used. A server that is stopped or unreachable does not answer.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Counts what may mean that another server is the primary now.
static TROUBLES: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));
static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::system);
/// When an error last meant that the connections should not be used, in milliseconds of [`CLOCK`]; 0 for never.
static DISTRUSTED_AT: AtomicU64 = AtomicU64::new(0);

/// A pool whose connections can write.
pub(super) fn writable_only(options: PgPoolOptions) -> PgPoolOptions {
    options
        // `before_acquire` asks, for a limited time.
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(check(connection)))
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(is_trusted(meta.age) && answers(connection).await) })
        })
        .after_release(|_, meta| Box::pin(async move { Ok(is_trusted(meta.age)) }))
}

/// Refuses a server that does not accept writes.
///
/// # Errors
/// [`ReadOnly`], or when the server does not answer.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // By the simple protocol: behind a pooler that is refused later, a prepared statement may fail in a way that names no cause.
    let read_only: String = sqlx::raw_sql(IS_READ_ONLY).fetch_one(connection).await?.try_get(0)?;
    if read_only == "off" {
        Ok(())
    } else {
        Err(sqlx::Error::Configuration(Box::new(ReadOnly)))
    }
}

/// Why a connection is not used.
#[derive(Debug, thiserror::Error)]
#[error("the server accepts no writes: it is a standby, or set to read-only")]
pub(super) struct ReadOnly;

async fn answers(connection: &mut PgConnection) -> bool {
    let answered = tokio::select! {
        answer = connection.ping() => answer.is_ok(),
        () = sleep(PING_TIMEOUT) => false,
    };
    if !answered {
        distrust();
    }
    answered
}

/// Looks at an error of a statement: some mean that no connection to this server is of use.
pub(super) fn note(error: &sqlx::Error) {
    let is_of_server = match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
            .is_some_and(|error| ends_connection(error.code())),
        _ => false,
    };
    if is_of_server {
        distrust();
    } else if matches!(error, sqlx::Error::PoolTimedOut) {
        // No connection could be made, or all are in use: those that there are may be good.
        TROUBLES.send_modify(|troubles| *troubles += 1);
    }
}

/// Class 08: the connection failed. 25006: the server is read-only. 57P01 to 57P05: it stops, crashed or starts.
pub(super) fn ends_connection(code: &str) -> bool {
    code == "25006" || code.starts_with("08") || code.starts_with("57P")
}

/// Ends every connection that exists now, when it is next looked at, and lets the primary be searched for.
pub(super) fn distrust() {
    distrust_quietly();
    TROUBLES.send_modify(|troubles| *troubles += 1);
}

/// Changes whenever the primary should be searched for.
pub(super) fn troubles() -> watch::Receiver<u64> {
    TROUBLES.subscribe()
}

/// Ends every connection that exists now, when it is next looked at.
pub(super) fn distrust_quietly() {
    DISTRUSTED_AT.fetch_max(now(), Ordering::Relaxed);
}

/// Whether a connection of this age was made since the last error that ends connections.
fn is_trusted(age: Duration) -> bool {
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    now().saturating_sub(age) > DISTRUSTED_AT.load(Ordering::Relaxed) || DISTRUSTED_AT.load(Ordering::Relaxed) == 0
}

/// Which error that ends connections was the last.
pub(super) fn era() -> u64 {
    DISTRUSTED_AT.load(Ordering::Relaxed)
}

fn now() -> u64 {
    u64::try_from(CLOCK.read().monotonic.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::ends_connection;

    #[test]
    fn errors_of_a_server_that_is_no_primary_end_its_connections() {
        for code in ["25006", "08000", "08003", "08006", "57P01", "57P02", "57P03", "57P05"] {
            assert!(ends_connection(code), "{code}");
        }
        // A statement that was cancelled, a duplicate, a deadlock, a full disk.
        for code in ["57014", "23505", "40P01", "53100", "25001", "42P01"] {
            assert!(!ends_connection(code), "{code}");
        }
    }
}
