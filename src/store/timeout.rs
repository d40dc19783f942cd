//! How long a statement may take, and the macros that run one statement on either database.

use std::sync::Arc;
use std::time::Duration;

use super::StoreError;
use super::allowance;
use super::primary;

/// How long a request may wait for a connection.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement of a server may take, with the wait for a connection. Those of one request share [`allowance::ALLOWANCE`].
pub const STATEMENT_TIMEOUT: Duration = Duration::from_millis(1_400);

/// One body, one text, either pool: where reading happens.
macro_rules! on_read {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::store::db::Db::Sqlite {
                read: $pool, patience, ..
            } => {
                $crate::store::timeout::in_time(*patience, async { Ok::<_, $crate::store::error::StoreError>($body) })
                    .await?
            }
            $crate::store::db::Db::Postgres {
                pool: $pool, patience, ..
            } => {
                $crate::store::timeout::within(*patience, async { Ok::<_, $crate::store::error::StoreError>($body) })
                    .await?
            }
        }
    };
}

/// One body, one text, either pool: a single statement that writes.
macro_rules! on_write {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::store::db::Db::Sqlite {
                write: $pool, patience, ..
            } => {
                $crate::store::timeout::in_time(*patience, async { Ok::<_, $crate::store::error::StoreError>($body) })
                    .await?
            }
            $crate::store::db::Db::Postgres {
                pool: $pool, patience, ..
            } => {
                $crate::store::timeout::within(*patience, async { Ok::<_, $crate::store::error::StoreError>($body) })
                    .await?
            }
        }
    };
}

pub(crate) use {on_read, on_write};

/// Ends a wait for a PostgreSQL server that went silent, as one does that is stopped or cut off. Without a limit, it is waited for.
pub(super) async fn within<T>(
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
pub(super) async fn in_time<T>(
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
