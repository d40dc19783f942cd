//! One look of a node at the database: a sign of life, and everything that its snapshot is made of.
//!
//! A standby answers reads for as long as it runs, however old its rows are. Only a database that commits a write is the primary,
//! so the heartbeat and the reads are one transaction, and a look counts only when it is committed.

use crate::revocations::{Position, Reading};

use super::nodes::{self, Heartbeat};
use super::signing_keys::{self, StoredKeys};
use super::{Db, StoreError, clock, on_read, revocations, tenants, verifying_keys, within};

/// What a snapshot is made of.
#[derive(Clone, Debug)]
pub struct Look {
    /// The keys.
    pub keys: StoredKeys,
    /// The denied tokens and ended sessions that are new.
    pub revocations: Reading,
    /// The disabled tenants; none when nothing was revoked since the last look.
    pub disabled_tenants: Option<Vec<String>>,
}

/// What one transaction reads.
struct Rows {
    keys: StoredKeys,
    revoked: Position,
    disabled_tenants: Option<Vec<String>>,
}

/// The version of the keys is read first: rows that are read after it can only be newer. In the same way the state of the revocations.
macro_rules! rows {
    ($executor:expr, $known:expr) => {{
        let version = sqlx::query_as(signing_keys::VERSION).fetch_one($executor).await?;
        let rows = sqlx::query_as(signing_keys::ROWS).fetch_all($executor).await?;
        let verifying = sqlx::query_as(verifying_keys::ROWS).fetch_all($executor).await?;
        let kept = sqlx::query_as(clock::KEPT).fetch_one($executor).await?;
        let (sequence, mark) = sqlx::query_as(revocations::STATE).fetch_one($executor).await?;
        let revoked = Position { sequence, mark };
        Rows {
            keys: signing_keys::stored(&version, rows, verifying, kept)?,
            revoked,
            // Read again whenever anything was revoked: there are few of them.
            disabled_tenants: if $known == Some(revoked) {
                None
            } else {
                Some(sqlx::query_scalar(tenants::DISABLED).fetch_all($executor).await?)
            },
        }
    }};
}

impl Db {
    /// Looks without a sign of life, as a command does.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn look(&self, known: Option<Position>) -> Result<Look, StoreError> {
        let rows = on_read!(self, |pool| rows!(pool, known));
        self.with_revocations(rows, known).await
    }

    /// Writes a heartbeat and looks.
    ///
    /// # Errors
    /// When the database does not commit the heartbeat, does not answer, or a row cannot be read.
    pub async fn beat_and_look(&self, heartbeat: &Heartbeat, known: Option<Position>) -> Result<Look, StoreError> {
        let rows = match self {
            // Every process reads the same file, and the only writer should not wait for the reads.
            Self::Sqlite { read, .. } => {
                self.beat(heartbeat).await?;
                rows!(read, known)
            }
            Self::Postgres { pool, patience, .. } => {
                within(*patience, async {
                    let mut tx = pool.begin().await?;
                    nodes::beat!(heartbeat, &mut *tx)?;
                    let rows = rows!(&mut *tx, known);
                    tx.commit().await?;
                    Ok(rows)
                })
                .await?
            }
        };
        self.with_revocations(rows, known).await
    }

    async fn with_revocations(&self, rows: Rows, known: Option<Position>) -> Result<Look, StoreError> {
        let Rows {
            keys,
            revoked,
            disabled_tenants,
        } = rows;
        Ok(Look {
            keys,
            revocations: self.revocations_since(known, revoked).await?,
            disabled_tenants,
        })
    }
}
