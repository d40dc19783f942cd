//! Poolers such as `PgBouncer` that give each transaction another connection to PostgreSQL. Prepared statements, the lock of the migrator and
//! the connections that are kept for one purpose need one for as long as they live, so such a pooler is refused at the start.
//!
//! No pooler says what it is to its clients. But each process of PostgreSQL belongs to one connection: two connections at once that are
//! served by the same one, or one connection that is served by two, are not their own.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};

use crate::clock::sleep;

use super::StoreError;

/// The process, with its start, for its number is used again. Nothing from a database that only speaks as PostgreSQL does and has no processes.
const PROCESS: &str =
    "SELECT pg_backend_pid() || ' ' || backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()";
/// A pooler may choose its connections in turn, and others use it too.
const ROUNDS: usize = 3;
/// How long the question may take: where the second connection waits for the first one to end, it is one of its own.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer waits for another transaction to end before it counts as held up.
const HELD_UP: Duration = Duration::from_millis(300);

/// Refuses a server that is found to be such a pooler.
///
/// # Errors
/// [`StoreError::PooledTransactions`]. Another failure of the question is none of the server.
pub(super) async fn refuse(options: &PgConnectOptions) -> Result<(), StoreError> {
    let pools = tokio::select! {
        pools = pools_transactions(options) => pools,
        () = sleep(TIMEOUT) => Ok(false),
    };
    let is_pooled = match pools {
        Ok(pools) => pools,
        // What PgBouncer says to BEGIN when it pools statements.
        Err(error) => error
            .as_database_error()
            .is_some_and(|error| error.message().contains("pooling mode")),
    };
    if is_pooled {
        return Err(StoreError::PooledTransactions);
    }
    Ok(())
}

async fn pools_transactions(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut one = PgConnection::connect_with(options).await?;
    let mut other = PgConnection::connect_with(options).await?;
    let mut is_pooled = false;
    let mut held_up = 0;
    for _ in 0..ROUNDS {
        let own = process(&mut one).await?;
        run(&mut other, "BEGIN").await?;
        let others = process(&mut other).await?;
        let mut again = std::pin::pin!(process(&mut one));
        let at_once = tokio::select! {
            own = &mut again => Some(own?),
            () = sleep(HELD_UP) => None,
        };
        run(&mut other, "ROLLBACK").await?;
        let own_again = if let Some(own) = at_once {
            own
        } else {
            held_up += 1;
            again.await?
        };
        is_pooled |= own.is_some() && (own == others || own != own_again);
    }
    one.close().await?;
    other.close().await?;
    // A pooler with one connection to PostgreSQL lets the first wait until the transaction of the second ends, each time.
    Ok(is_pooled || held_up == ROUNDS)
}

/// Whether a statement failed as only those do that a pooler sends over a connection of another one: 42P05 and 26000, a prepared
/// statement that is there already or is not there.
pub(super) fn is_sign(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| matches!(&*code, "42P05" | "26000"))
}

/// By the simple protocol, which prepares nothing.
async fn process(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::raw_sql(PROCESS).fetch_optional(connection).await?;
    row.map(|row| row.try_get(0)).transpose()
}

async fn run(connection: &mut PgConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(connection).await.map(drop)
}
