//! How busy the connections to the database are.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Database, Pool};

use super::Db;

/// Transactions of this process that found no idle connection.
static WAITS: AtomicU64 = AtomicU64::new(0);
/// Waits that took too long.
static TIMEOUTS: AtomicU64 = AtomicU64::new(0);

/// The connections for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The purpose.
    pub name: &'static str,
    /// Connections that work, or are kept for the next statement of a refresh.
    pub in_use: u32,
    /// Connections that wait for work.
    pub idle: u32,
}

impl Db {
    /// The connections by their purposes.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolUse> {
        match self {
            Self::Sqlite { read, write, .. } => vec![of("read", read), of("write", write)],
            Self::Postgres { pool, .. } => vec![of("all", pool)],
        }
    }
}

fn of<D: Database>(name: &'static str, pool: &Pool<D>) -> PoolUse {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    PoolUse {
        name,
        in_use: pool.size().saturating_sub(idle),
        idle,
    }
}

/// Counts a transaction that has to wait, because every connection is in use and there may be no more.
pub(super) fn note_wait<D: Database>(pool: &Pool<D>) {
    if pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections() {
        WAITS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a wait that took too long.
pub(super) fn note_timeout() {
    TIMEOUTS.fetch_add(1, Ordering::Relaxed);
}

/// How many transactions had to wait for a connection, and how many waits of any statement took too long.
#[must_use]
pub fn waits_for_connections() -> (u64, u64) {
    (WAITS.load(Ordering::Relaxed), TIMEOUTS.load(Ordering::Relaxed))
}
