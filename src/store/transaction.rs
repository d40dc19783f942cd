//! Write transactions: begun, stamped with the time, committed, and tried again when other writers were in the way.

use std::time::Duration;

use sqlx::{Postgres, Sqlite, Transaction};

use crate::clock::{UnixTime, uptime};

use super::pools;
use super::timeout::{in_time, within};
use super::{Db, StoreError};

pub(super) const POSTGRES_NOW: &str = "SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT)";
const REACHED: &str = "SELECT reached FROM clock WHERE id = 1";

/// The longest time from the stamp of a change to its commit: the least `keys.clock_skew`, by which the end of a session counts longer
/// than its tokens.
const STAMP_COUNTS: Duration = Duration::from_secs(2);

/// How often a change is tried that other writers are in the way of.
const TRIES: usize = 3;

/// A write transaction. Dropped without `commit`, it is rolled back.
pub(crate) struct Tx {
    pub(super) on: Backend,
    stamped: Option<Duration>,
}

/// The database of a transaction; with PostgreSQL, how long a statement may take.
pub(crate) enum Backend {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>, Option<Duration>),
}

impl From<Backend> for Tx {
    fn from(on: Backend) -> Self {
        Self { on, stamped: None }
    }
}

/// One body, one text, within a write transaction.
macro_rules! in_tx {
    ($tx:expr, |$connection:ident| $body:expr) => {
        match &mut ($tx).on {
            $crate::store::transaction::Backend::Sqlite(tx) => {
                let $connection = &mut **tx;
                $body
            }
            $crate::store::transaction::Backend::Postgres(tx, patience) => {
                let $connection = &mut **tx;
                $crate::store::timeout::within(*patience, async { Ok::<_, $crate::store::error::StoreError>($body) })
                    .await?
            }
        }
    };
}

pub(crate) use in_tx;

impl Db {
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        let on = match self {
            // A transaction that begins by reading and then writes fails at once when another wrote in between.
            Self::Sqlite { write, patience, .. } => {
                pools::note_wait(write);
                let begun = async { Ok(write.begin_with("BEGIN IMMEDIATE").await?) };
                Backend::Sqlite(in_time(*patience, begun).await?)
            }
            Self::Postgres { pool, patience, .. } => {
                pools::note_wait(pool);
                let begun = within(*patience, async { Ok(pool.begin().await?) }).await?;
                Backend::Postgres(begun, *patience)
            }
        };
        Ok(on.into())
    }
}

impl Tx {
    /// Commits, unless the transaction was stamped too long ago, as when a lock was waited for since then. For the end of a session
    /// this matters: access tokens were issued until now, and a node that starts would take the end for too old to count. With a new
    /// stamp the whole may be tried again.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        if self
            .stamped
            .is_some_and(|stamped| uptime().saturating_sub(stamped) > STAMP_COUNTS)
        {
            return Err(StoreError::Conflict);
        }
        match self.on {
            Backend::Sqlite(tx) => tx.commit().await?,
            Backend::Postgres(tx, patience) => within(patience, async { Ok(tx.commit().await?) }).await?,
        }
        Ok(())
    }

    /// The text for this database.
    pub(super) fn text(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.on {
            Backend::Sqlite(_) => sqlite,
            Backend::Postgres(..) => postgres,
        }
    }

    /// The time by the database's clock, within the transaction. SQLite has no clock of its own: there it is `otherwise`.
    pub(crate) async fn now(&mut self, otherwise: UnixTime) -> Result<UnixTime, StoreError> {
        match &mut self.on {
            Backend::Sqlite(_) => Ok(otherwise),
            Backend::Postgres(tx, patience) => {
                let now = async { Ok(sqlx::query_scalar(POSTGRES_NOW).fetch_one(&mut **tx).await?) };
                Ok(UnixTime(within(*patience, now).await?))
            }
        }
    }

    /// [`Tx::now`], and not before the time that the nodes have reached: a row that is stamped by a clock that is behind would
    /// be forgotten too early. The commit must follow soon.
    pub(crate) async fn stamp(&mut self, otherwise: UnixTime) -> Result<UnixTime, StoreError> {
        self.stamped = Some(uptime());
        let now = self.now(otherwise).await?;
        let reached = in_tx!(self, |connection| sqlx::query_scalar(REACHED)
            .fetch_one(connection)
            .await?);
        Ok(now.max(UnixTime(reached)))
    }
}

/// The whole of a change again, when other writers were in its way.
pub(super) async fn retry<T, F>(mut change: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut answer = Err(StoreError::Conflict);
    for _ in 0..TRIES {
        answer = change().await;
        if !matches!(answer, Err(StoreError::Conflict)) {
            break;
        }
    }
    answer
}
