//! Connections to PostgreSQL that are kept for the statements of a refresh. The pool asks a connection whether it lives before it lends
//! it and after it came back, so that a statement costs three round trips; here it costs one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool, Postgres};

use super::allowance::{is_less_than, limited};
use super::timeout::within;
use super::{StoreError, primary};

/// How long one statement may take. What takes longer has died unheard, or might as well have.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a statement may take that is asked for a second time, with the wait for a connection.
const SECOND_PATIENCE: Duration = Duration::from_millis(1_300);

/// PostgreSQL plans a statement with arrays anew each time, as it takes a plan for any array to be worse than one for this array; each
/// of ours finds sessions by their names, whatever their number. That is also how they are to be found in a table that was empty
/// when the plan was made.
const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off";

/// Connections that wait for the next statement. Clones share them.
#[derive(Clone)]
pub struct KeptConnections {
    pool: PgPool,
    idle: Arc<Mutex<Vec<Idle>>>,
}

/// A connection that waits, and the last error that ends connections when it was made.
struct Idle {
    connection: PoolConnection<Postgres>,
    era: u64,
}

impl fmt::Debug for KeptConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

impl KeptConnections {
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            idle: Arc::default(),
        }
    }

    /// How many wait.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    /// Gives all of them back to the pool, which is closed.
    pub(super) fn give_back(&self) {
        self.lock().clear();
    }

    /// What a statement returns, which may be asked twice: a connection that was kept may have died meanwhile.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(super) async fn rows<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let kept = self.lock().pop();
        if let Some(Idle { connection, era }) = kept {
            let kept = Lent(Some(connection), era);
            // Dropped, it is closed.
            if era == primary::era() {
                let is_cut_short = is_less_than(PATIENCE);
                match self.rows_by(kept, statement()).await {
                    Err(error) if has_died(&error) && is_cut_short => {}
                    Err(error) if has_died(&error) => primary::distrust(),
                    answer => return Ok(answer?),
                }
            }
        }
        let era = primary::era();
        within(Some(SECOND_PATIENCE), async {
            let mut new = Lent(Some(self.pool.acquire().await?), era);
            sqlx::raw_sql(SETTINGS).execute(new.connection()?).await?;
            Ok(self.rows_by(new, statement()).await?)
        })
        .await
    }

    async fn rows_by(
        &self,
        mut lent: Lent,
        statement: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let answer = Box::pin(statement.fetch_all(lent.connection()?));
        let rows = limited(PATIENCE, answer).await.ok_or(sqlx::Error::PoolTimedOut)??;
        let mut idle = self.lock();
        // A pool that ends waits for all its connections.
        if let Some(connection) = lent.0.take()
            && !self.pool.is_closed()
        {
            idle.push(Idle {
                connection,
                era: lent.1,
            });
        }
        Ok(rows)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection while it is asked. Only one that has just answered is kept; another one, also that of a request which was given up, is
/// closed: nobody knows how it stands, and it has settings that nobody else expects.
struct Lent(Option<PoolConnection<Postgres>>, u64);

impl Lent {
    fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Whether the connection has ended, and the statement may be asked by another one.
fn has_died(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| primary::ends_connection(&code)),
        // The last is what [`PATIENCE`] ends with: the pool is asked later.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
        _ => false,
    }
}
