//! The registered clients as last read: a request finds its client without asking the database for the row.
//!
//! The database counts every change of `clients` by itself. A row that was read here holds as long as that count stands, and
//! the count is asked for again once it is [`BELIEVED`] old: what a client may no longer do, by whichever hand, is known that
//! much later at most, on every node. What it may do from now on is known at once: before a client is refused, its row is
//! read anew.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::clock::Clock;
use crate::oauth::client::ClientId;
use crate::store::clients::StoredClient;
use crate::store::{Db, StoreError};

/// How long the count of changes is believed.
pub const BELIEVED: Duration = Duration::from_millis(100);

/// From this age on, one request asks for the count while the others still believe it: under load nobody waits for it.
const RENEWED: Duration = Duration::from_millis(50);

/// How many clients are kept; beyond, all are read anew.
const MOST: usize = 16_384;

/// The count of changes, and the moment before it was asked for.
#[derive(Clone, Copy)]
struct Confirmed {
    changes: i64,
    at: Duration,
}

/// A row, and the count of changes that was known before it was read.
struct Known {
    changes: i64,
    client: Arc<StoredClient>,
}

/// The clients that were asked for lately.
pub struct Registry {
    db: Db,
    clock: Clock,
    confirmed: ArcSwapOption<Confirmed>,
    renewing: tokio::sync::Mutex<()>,
    known: RwLock<HashMap<ClientId, Known>>,
}

impl Registry {
    /// A registry that has read nothing yet.
    #[must_use]
    pub fn new(db: Db, clock: Clock) -> Self {
        Self {
            db,
            clock,
            confirmed: ArcSwapOption::empty(),
            renewing: tokio::sync::Mutex::default(),
            known: RwLock::default(),
        }
    }

    /// The client of this id, as it was at most [`BELIEVED`] ago; one that is unknown or disabled, as it is now.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn find(&self, id: &ClientId) -> Result<Option<Arc<StoredClient>>, StoreError> {
        let now = self.clock.read().monotonic;
        let confirmed = self.confirmed.load().as_deref().copied();
        match confirmed.map(|confirmed| (confirmed, now.saturating_sub(confirmed.at))) {
            Some((confirmed, age)) if age < RENEWED => self.read(id, confirmed.changes).await,
            Some((confirmed, age)) if age < BELIEVED => match self.renewing.try_lock() {
                Ok(_alone) => self.find_anew(id).await,
                Err(_) => self.read(id, confirmed.changes).await,
            },
            _ => self.find_anew(id).await,
        }
    }

    /// The client of this id as it is now.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn find_anew(&self, id: &ClientId) -> Result<Option<Arc<StoredClient>>, StoreError> {
        let at = self.clock.read().monotonic;
        // On the heap, as the row below: the usual request, whose client is kept, does not carry room for them.
        let changes = Box::pin(self.db.client_changes()).await?;
        // Whoever asked later knows better, whoever is answered first.
        self.confirmed.rcu(|known| match known {
            Some(known) if known.at > at => Some(Arc::clone(known)),
            _ => Some(Arc::new(Confirmed { changes, at })),
        });
        self.read(id, changes).await
    }

    async fn read(&self, id: &ClientId, changes: i64) -> Result<Option<Arc<StoredClient>>, StoreError> {
        if let Some(client) = self.kept(id, changes) {
            return Ok(Some(client));
        }
        // An unknown id is asked for each time: names that nobody registered must not fill the memory.
        let Some(client) = Box::pin(self.db.client(id)).await?.map(Arc::new) else {
            return Ok(None);
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        // The count is older than the row: what changed in between makes the row be read once more, never be kept.
        let row = Known {
            changes,
            client: Arc::clone(&client),
        };
        known.insert(id.clone(), row);
        Ok(Some(client))
    }

    fn kept(&self, id: &ClientId, changes: i64) -> Option<Arc<StoredClient>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let row = known.get(id).filter(|row| row.changes == changes)?;
        let is_enabled = row.client.client.disabled_at.is_none();
        is_enabled.then(|| Arc::clone(&row.client))
    }
}
