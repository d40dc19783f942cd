//! One look of a node at the database: a sign of life, and everything that its snapshot is made of.
//!
//! A standby answers reads for as long as it runs, however old its rows are. Only a database that commits a write is the primary,
//! so the heartbeat and the reads are one transaction, and a look counts only when it is committed.

use crate::clock::UnixTime;

use super::denied_tokens::{self, DeniedToken};
use super::nodes::{self, Heartbeat};
use super::pace::Pace;
use super::sessions::EndedSession;
use super::signing_keys::{self, StoredKeys};
use super::{Db, StoreError, clock, on_read, sessions, tenants, verifying_keys, within};

/// What a snapshot is made of.
#[derive(Clone, Debug)]
pub struct Look {
    /// The keys.
    pub keys: StoredKeys,
    /// The denied tokens.
    pub denied: Vec<DeniedToken>,
    /// The sessions that ended lately.
    pub ended: Vec<EndedSession>,
    /// The disabled tenants.
    pub disabled_tenants: Vec<String>,
}

/// The version of the keys is read first: rows that are read after it can only be newer.
macro_rules! look {
    ($executor:expr, $ended_since:expr) => {{
        let version = sqlx::query_as(signing_keys::VERSION).fetch_one($executor).await?;
        let rows = sqlx::query_as(signing_keys::ROWS).fetch_all($executor).await?;
        let verifying = sqlx::query_as(verifying_keys::ROWS).fetch_all($executor).await?;
        let kept = sqlx::query_as(clock::KEPT).fetch_one($executor).await?;
        Look {
            keys: signing_keys::stored(&version, rows, verifying, kept)?,
            denied: sqlx::query_as(denied_tokens::ALL).fetch_all($executor).await?,
            ended: sqlx::query_as(sessions::ENDED_UNTIL)
                .bind($ended_since.0)
                .fetch_all($executor)
                .await?,
            disabled_tenants: sqlx::query_scalar(tenants::DISABLED).fetch_all($executor).await?,
        }
    }};
}

impl Db {
    /// Looks without a sign of life, as a command does.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn look(&self, ended_since: UnixTime) -> Result<Look, StoreError> {
        Ok(on_read!(self, |pool| look!(pool, ended_since)))
    }

    /// Writes a heartbeat and looks.
    ///
    /// # Errors
    /// When the database does not commit the heartbeat, does not answer, or a row cannot be read.
    pub async fn beat_and_look(&self, heartbeat: &Heartbeat, ended_since: UnixTime) -> Result<Look, StoreError> {
        match self {
            // Every process reads the same file, and the only writer should not wait for the reads.
            Self::Sqlite { read, .. } => {
                self.beat(heartbeat).await?;
                Ok(look!(read, ended_since))
            }
            Self::Postgres { pool, patience, .. } => {
                let pace = Pace::default();
                let look = within(*patience, async {
                    let mut tx = pool.begin().await?;
                    pace.asks();
                    nodes::beat!(heartbeat, &mut *tx)?;
                    pace.is_answered();
                    let look = look!(&mut *tx, ended_since);
                    tx.commit().await?;
                    Ok(look)
                })
                .await;
                look.map_err(|error| pace.explained(error, *patience))
            }
        }
    }
}
