//! One look of a node at the database: a sign of life, and everything that its snapshot is made of.
//!
//! A standby answers reads for as long as it runs, however old its rows are. Only a database that commits a write is the primary,
//! so the heartbeat and the reads are one transaction, and a look counts only when it is committed.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{UnixTime, uptime};
use crate::revocations::{Endings, Followed, RevocationChange, Revocations};

use super::nodes::{self, Heartbeat};
use super::pace::Pace;
use super::revocation_changes::{self, ReadingPlace, RevocationChanges};
use super::signing_keys::{self, StoredKeys};
use super::timeout::within;
use super::transaction::Backend;
use super::{Db, StoreError, Tx, clock, in_tx, tenants, verifying_keys};

/// What a snapshot is made of.
#[derive(Clone, Debug)]
pub struct Look {
    /// The keys.
    pub keys: StoredKeys,
    /// The disabled tenants; none when none has changed since the last look.
    pub disabled_tenants: Option<Vec<String>>,
    /// What was denied and ended.
    pub news: News,
}

/// What a look has read of what was denied and ended.
#[derive(Clone, Debug)]
pub enum News {
    /// Nothing.
    Unread,
    /// What changed since the last look.
    Changes(Vec<RevocationChange>, Followed),
    /// Everything.
    Whole(Followed),
}

/// What a node knows before it looks.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// How far it has read.
    pub followed: Option<&'a Followed>,
    /// Whether the tenants are to be read in any case.
    pub reads_tenants: bool,
    /// For how long ends of sessions count.
    pub endings: Endings,
    /// Sessions that ended before it have no access token any more.
    pub ended_since: UnixTime,
}

/// A look that has the node's place and the keys.
struct Opened {
    tx: Tx,
    place: ReadingPlace,
    keys: StoredKeys,
}

/// The version of the keys is read first: rows that are read after it can only be newer.
async fn read_keys(tx: &mut Tx) -> Result<StoredKeys, StoreError> {
    Ok(in_tx!(tx, |connection| {
        let version = sqlx::query_as(signing_keys::VERSION)
            .fetch_one(&mut *connection)
            .await?;
        let rows = sqlx::query_as(signing_keys::ROWS).fetch_all(&mut *connection).await?;
        let verifying = sqlx::query_as(verifying_keys::ROWS).fetch_all(&mut *connection).await?;
        let kept = sqlx::query_as(clock::KEPT).fetch_one(&mut *connection).await?;
        signing_keys::stored(&version, rows, verifying, kept)?
    }))
}

async fn read_tenants(tx: &mut Tx) -> Result<Vec<String>, StoreError> {
    Ok(in_tx!(tx, |connection| sqlx::query_scalar(tenants::DISABLED)
        .fetch_all(connection)
        .await?))
}

impl Db {
    /// Looks at the keys and the tenants without a sign of life, as a command does and a server before its first heartbeat.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn look(&self) -> Result<Look, StoreError> {
        let mut tx = self.begin_look().await?;
        let keys = read_keys(&mut tx).await?;
        let disabled_tenants = Some(read_tenants(&mut tx).await?);
        Ok(Look {
            keys,
            disabled_tenants,
            news: News::Unread,
        })
    }

    /// Writes a heartbeat and looks. Everything that is denied or ended is read right into `revocations`, which may be too much at once
    /// for an answer; an early refusal is no harm.
    ///
    /// # Errors
    /// When the database does not commit the heartbeat, does not answer, or a row cannot be read.
    pub async fn beat_and_look(
        &self,
        heartbeat: &Heartbeat,
        known: &Known<'_>,
        revocations: &Arc<Revocations>,
    ) -> Result<Look, StoreError> {
        match self {
            Self::Sqlite { .. } => self.look_at_file(heartbeat, known, revocations).await,
            Self::Postgres { patience, .. } => {
                let pace = Pace::default();
                let look = self
                    .look_at_server(heartbeat, known, revocations, &pace, *patience)
                    .await;
                look.map_err(|error| pace.explained(error, *patience))
            }
        }
    }

    async fn look_at_file(
        &self,
        heartbeat: &Heartbeat,
        known: &Known<'_>,
        revocations: &Arc<Revocations>,
    ) -> Result<Look, StoreError> {
        let node_id = &*heartbeat.node_id;
        let mut tx = self.begin().await?;
        in_tx!(&mut tx, |connection| nodes::beat!(heartbeat, connection)?);
        let place = revocation_changes::find_place(&mut tx, node_id, known.followed).await?;
        // Every process reads the same file, and the only writer should not wait for the reads.
        revocation_changes::take_place(&mut tx, node_id, &place.now.mark, place.horizon(known)).await?;
        tx.commit().await?;
        let mut tx = self.begin_look().await?;
        // Another process may have taken it for gone meanwhile.
        if !revocation_changes::has_mark(&mut tx, node_id, &place.now.mark).await? {
            return Err(StoreError::Conflict);
        }
        let keys = read_keys(&mut tx).await?;
        let mut look = place.read(&mut tx, keys, known, revocations).await?;
        drop(tx);
        if let News::Whole(followed) = &mut look.news {
            // The mark that counts is committed after all that was read.
            followed.mark = revocation_changes::new_mark();
            let mut tx = self.begin().await?;
            if !revocation_changes::has_mark(&mut tx, node_id, &place.now.mark).await? {
                return Err(StoreError::Conflict);
            }
            revocation_changes::take_place(&mut tx, node_id, &followed.mark, place.horizon(known)).await?;
            tx.commit().await?;
        }
        Ok(look)
    }

    /// What was revoked may be much, so that each statement that reads it has the whole time. All others have it together.
    async fn look_at_server(
        &self,
        heartbeat: &Heartbeat,
        known: &Known<'_>,
        revocations: &Arc<Revocations>,
        pace: &Pace,
        patience: Option<Duration>,
    ) -> Result<Look, StoreError> {
        let node_id = &*heartbeat.node_id;
        let began = uptime();
        let mut opened = within(patience, self.open(heartbeat, known.followed, pace)).await?;
        let mut took = uptime().saturating_sub(began);
        if !opened.place.goes_on {
            let Opened { mut tx, place, .. } = opened;
            let first = place.now;
            within(left(patience, took), async {
                // Before the position is taken that counts: from now on no change is forgotten that comes after it.
                revocation_changes::take_place(&mut tx, node_id, &first.mark, 0).await?;
                tx.commit().await
            })
            .await?;
            let began = uptime();
            opened = within(patience, self.open(heartbeat, Some(&first), pace)).await?;
            took = uptime().saturating_sub(began);
            if !opened.place.goes_on {
                return Err(StoreError::Conflict);
            }
            opened.place.goes_on = false;
        }
        let Opened { mut tx, place, keys } = opened;
        let look = place.read(&mut tx, keys, known, revocations).await?;
        within(left(patience, took), async {
            revocation_changes::take_place(&mut tx, node_id, &place.now.mark, place.horizon(known)).await?;
            tx.commit().await
        })
        .await?;
        Ok(look)
    }

    async fn open(
        &self,
        heartbeat: &Heartbeat,
        followed: Option<&Followed>,
        pace: &Pace,
    ) -> Result<Opened, StoreError> {
        let mut tx = self.begin().await?;
        pace.asks();
        in_tx!(&mut tx, |connection| nodes::beat!(heartbeat, connection)?);
        pace.is_answered();
        let found = revocation_changes::find_place(&mut tx, &heartbeat.node_id, followed).await?;
        let keys = read_keys(&mut tx).await?;
        Ok(Opened { tx, place: found, keys })
    }

    /// A transaction that only reads.
    async fn begin_look(&self) -> Result<Tx, StoreError> {
        match self {
            Self::Sqlite { read, .. } => Ok(Backend::Sqlite(read.begin().await?).into()),
            Self::Postgres { .. } => self.begin().await,
        }
    }
}

fn left(patience: Option<Duration>, took: Duration) -> Option<Duration> {
    patience.map(|patience| patience.saturating_sub(took))
}

impl ReadingPlace {
    /// The least number that the look may still need.
    fn horizon(&self, known: &Known<'_>) -> i64 {
        let from = known.followed.filter(|_| self.goes_on);
        from.map_or(&self.now.position, |followed| &followed.position).horizon()
    }

    async fn read(
        &self,
        tx: &mut Tx,
        keys: StoredKeys,
        known: &Known<'_>,
        revocations: &Arc<Revocations>,
    ) -> Result<Look, StoreError> {
        let from = known.followed.filter(|_| self.goes_on);
        let changes = match from {
            Some(followed) => {
                revocation_changes::changes_after(tx, &followed.position, &self.now.position, known.endings).await?
            }
            None => None,
        };
        let is_whole = changes.is_none();
        let changes = if let Some(changes) = changes {
            changes
        } else {
            revocation_changes::everything(tx, known.ended_since, known.endings, revocations).await?;
            RevocationChanges::default()
        };
        // After the changes: one that is committed in between is read again at the next look.
        let reads_tenants = is_whole || changes.tenants || known.reads_tenants;
        let disabled_tenants = if reads_tenants {
            Some(read_tenants(tx).await?)
        } else {
            None
        };
        let now = self.now.clone();
        let news = if is_whole {
            News::Whole(now)
        } else {
            News::Changes(changes.names, now)
        };
        Ok(Look {
            keys,
            disabled_tenants,
            news,
        })
    }
}
