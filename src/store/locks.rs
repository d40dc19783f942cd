//! Whether a session holds a lock on one of our tables that requests have to wait for. Reads of the keys go on under most of them, so that a
//! look at the keys does not notice.

use std::time::Duration;

use sqlx::FromRow;

use crate::clock::sleep;

use super::tables::names;
use super::timeout::within;
use super::{Db, StoreError};

/// A change of the schema holds such a lock for a moment, which no request minds.
const NOTICED_AFTER: Duration = Duration::from_secs(1);

/// The modes that are in the way of `ROW EXCLUSIVE`, which each statement needs that writes, also of one that waits: later statements wait
/// behind it. A statement that waits for a row locks a tuple of the table, and delays no other. Tables are resolved as those of statements are. A
/// prepared transaction has no process, and 0 here.
const POSTGRES_LOCKS: &str = "\
    SELECT listed.name AS name, locked.mode AS mode, COALESCE(locked.pid, 0)::BIGINT AS pid \
    FROM unnest($1::TEXT[]) AS listed (name) JOIN pg_locks AS locked ON locked.relation = to_regclass(listed.name) \
    WHERE locked.locktype = 'relation' AND locked.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
        AND locked.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
    ORDER BY locked.pid, listed.name";

#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
struct Lock {
    name: String,
    mode: String,
    pid: i64,
}

impl Db {
    /// Refuses locks on our tables that requests wait for. SQLite has none on tables.
    ///
    /// # Errors
    /// [`StoreError::Locked`], or when the database does not answer.
    pub async fn require_no_locks(&self) -> Result<(), StoreError> {
        let first = self.locks().await?;
        if first.is_empty() {
            return Ok(());
        }
        sleep(NOTICED_AFTER).await;
        let mut held = self.locks().await?;
        held.retain(|lock| first.contains(lock));
        let Some(pid) = held.first().map(|lock| lock.pid) else {
            return Ok(());
        };
        held.retain(|lock| lock.pid == pid);
        let tables: Vec<String> = held
            .iter()
            .map(|Lock { name, mode, .. }| format!("{name} ({mode})"))
            .collect();
        let (holder, cure) = if pid == 0 {
            let cure = "ROLLBACK PREPARED with its name, which is in pg_prepared_xacts";
            ("a prepared transaction".to_owned(), cure.to_owned())
        } else {
            let cure = format!("SELECT pg_terminate_backend({pid})");
            (format!("process {pid} of PostgreSQL"), cure)
        };
        Err(StoreError::Locked {
            tables: tables.join(", "),
            holder,
            cure,
        })
    }

    async fn locks(&self) -> Result<Vec<Lock>, StoreError> {
        let Self::Postgres { pool, patience, .. } = self else {
            return Ok(Vec::new());
        };
        let names: Vec<&str> = names().collect();
        within(*patience, async {
            Ok(sqlx::query_as(POSTGRES_LOCKS).bind(names).fetch_all(pool).await?)
        })
        .await
    }
}
