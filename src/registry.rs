//! The registered clients as last read: a request finds its client without asking the database for the row.
//!
//! The database gives every change of `clients` a random name. A cached row holds while the last change has the name that it was
//! read under, and that name is read again once it is [`BELIEVED`] old: what a client may no longer do, by whichever hand, is
//! known that much later at most, on every node. What it may do from now on is known at once: before a client is refused, its
//! row is read again. A database that lost its last seconds has other names from then on, so no cached row outlives them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::clock::Clock;
use crate::events::{Entry, Event};
use crate::oauth::client::ClientId;
use crate::store::clients::{ClientChange, StoredClient};
use crate::store::{ChangeId, Db, REMEMBERED, StoreError};

/// How long the name of the last change is used.
pub const BELIEVED: Duration = Duration::from_millis(100);

/// From this age on, one request reads the name while the others still use the last one: under load no request waits for it.
const RENEWED: Duration = Duration::from_millis(50);

/// How long one answer to the question whether clients can be looked up holds.
const PROBED: Duration = Duration::from_millis(500);

/// The id that is looked up then.
const PROBE: &str = "readiness";

/// How many clients are kept; beyond, all are read anew.
const MOST: usize = 16_384;

/// The last change, and the moment before it was read.
#[derive(Clone, Copy)]
struct ConfirmedChange {
    change: ChangeId,
    at: Duration,
}

/// A row, and the last change when it was read.
struct KnownClient {
    change: ChangeId,
    client: Arc<StoredClient>,
}

/// The clients that were asked for lately.
pub struct Registry {
    db: Db,
    clock: Clock,
    confirmed: ArcSwapOption<ConfirmedChange>,
    renewing: tokio::sync::Mutex<()>,
    probed: tokio::sync::Mutex<Option<(Duration, Result<(), String>)>>,
    known: RwLock<HashMap<ClientId, KnownClient>>,
    /// The clients that were refused here because they were disabled.
    disabled: Mutex<HashMap<ClientId, Disabled>>,
}

/// When a client was seen to be disabled, and the newest audit record about it then.
#[derive(Clone, Copy)]
struct Disabled {
    seen_at: Duration,
    newest_record: Option<i64>,
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
            probed: tokio::sync::Mutex::default(),
            known: RwLock::default(),
            disabled: Mutex::default(),
        }
    }

    /// Whether a client can be looked up now. Callers at once share one statement, and its answer holds for `PROBED`.
    ///
    /// # Errors
    /// Why none can be.
    pub async fn probe(&self) -> Result<(), String> {
        let mut probed = self.probed.lock().await;
        let now = self.clock.read().monotonic;
        if let Some((_, answer)) = probed.as_ref().filter(|(at, _)| now.saturating_sub(*at) < PROBED) {
            return answer.clone();
        }
        let answer = match PROBE.parse() {
            Ok(id) => self.db.client_with_change(&id).await.map(drop),
            Err(_) => Ok(()),
        };
        let answer = answer.map_err(|error| error.to_string());
        *probed = Some((self.clock.read().monotonic, answer.clone()));
        answer
    }

    /// The client of this id, as it was at most [`BELIEVED`] ago; one that is unknown or disabled, as it is now.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn find(&self, id: &ClientId) -> Result<Option<Arc<StoredClient>>, StoreError> {
        let now = self.clock.read().monotonic;
        let confirmed = self.confirmed.load().as_deref().copied();
        match confirmed.map(|confirmed| (confirmed, now.saturating_sub(confirmed.at))) {
            Some((confirmed, age)) if age < RENEWED => self.read(id, confirmed.change).await,
            Some((confirmed, age)) if age < BELIEVED => match self.renewing.try_lock() {
                Ok(_alone) => self.find_anew(id).await,
                Err(_) => self.read(id, confirmed.change).await,
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
        let change = Box::pin(self.db.client_change()).await?;
        // Keep the newest; responses may arrive out of order.
        self.confirmed.rcu(|known| match known {
            Some(known) if known.at > at => Some(Arc::clone(known)),
            _ => Some(Arc::new(ConfirmedChange { change, at })),
        });
        self.read(id, change).await
    }

    async fn read(&self, id: &ClientId, change: ChangeId) -> Result<Option<Arc<StoredClient>>, StoreError> {
        if let Some(client) = self.kept(id, change) {
            return Ok(Some(client));
        }
        // An unknown id is asked for each time: names that nobody registered must not fill the memory.
        let Some((client, change)) = Box::pin(self.db.client_with_change(id)).await? else {
            return Ok(None);
        };
        let client = Box::pin(self.still_disabled(client)).await?;
        let client = Arc::new(client);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        let row = KnownClient {
            change,
            client: Arc::clone(&client),
        };
        known.insert(id.clone(), row);
        Ok(Some(client))
    }

    /// The client as this node knows it: one that was refused here stays disabled if the database has lost that it was.
    async fn still_disabled(&self, mut stored: StoredClient) -> Result<StoredClient, StoreError> {
        let now = self.clock.read().monotonic;
        let known = self.lock_disabled().get(&stored.client.id).copied();
        let known = known.filter(|known| now.saturating_sub(known.seen_at) < REMEMBERED);
        let id = &stored.client.id;
        match (stored.client.disabled_at, known) {
            (Some(_), Some(_)) | (None, None) => {}
            (Some(_), None) => {
                let newest_record = self.db.newest_record_about(id.as_str()).await?;
                let mut disabled = self.lock_disabled();
                if disabled.len() >= MOST {
                    disabled.clear();
                }
                disabled.insert(
                    id.clone(),
                    Disabled {
                        seen_at: now,
                        newest_record,
                    },
                );
            }
            // Enabling leaves a record, or at least the old ones; a database that was set back has fewer.
            (None, Some(known)) if self.db.newest_record_about(id.as_str()).await? < known.newest_record => {
                let at = self.clock.read().wall;
                tracing::error!(
                    client.id = %id,
                    "the database has lost that this client was disabled, as after a failover to a standby without the last seconds; \
                     it stays disabled and this is written again"
                );
                let entry = Entry::new(Event::ClientDisabled, id, at, "registry", "the database had lost it");
                self.db.change_client(id, &ClientChange::Disable, &entry).await?;
                self.lock_disabled().remove(&stored.client.id);
                stored.client.disabled_at = Some(at);
            }
            (None, Some(_)) => {
                self.lock_disabled().remove(id);
            }
        }
        Ok(stored)
    }

    fn lock_disabled(&self) -> MutexGuard<'_, HashMap<ClientId, Disabled>> {
        self.disabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, id: &ClientId, change: ChangeId) -> Option<Arc<StoredClient>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let row = known.get(id).filter(|row| row.change == change)?;
        let is_enabled = row.client.client.disabled_at.is_none();
        is_enabled.then(|| Arc::clone(&row.client))
    }
}
