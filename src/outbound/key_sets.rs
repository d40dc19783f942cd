//! The keys that clients publish themselves (`jwks_uri`, RFC 7591 section 2): fetched when they are needed, and kept a while.
//!
//! A client that signs with a new key is known at once: an assertion that no kept key fits causes a fetch. A key that it took
//! out is believed for [`FRESH`] at most, and for [`LONGEST`] when its key set cannot be fetched any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::jose::jwk::PublicJwk;
use crate::oauth::client::JwksUri;
use crate::oauth::client_keys::usable;

use super::{FetchError, Outbound};

/// How long a set is used without asking for a newer one.
pub const FRESH: Duration = Duration::from_mins(5);
/// How long a set is used when no newer one can be had.
pub const LONGEST: Duration = Duration::from_hours(1);
/// After an attempt, whatever came of it, none is made for this long: nobody makes us an amplifier by unknown kids. Short,
/// so that a client may sign with a key that it published a moment ago.
pub const COOLDOWN: Duration = Duration::from_secs(1);
/// How many sets are kept; beyond, all are fetched anew.
const MOST: usize = 1_024;

/// Why a client's published keys cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// They were not fetched.
    #[error("the key set at the client's jwks_uri was not fetched: {0}")]
    Fetch(#[from] FetchError),
    /// It is something else.
    #[error("the document at the client's jwks_uri is no JWK set with a public RSA key from 2048 bits or a P-256 key")]
    NoKeySet,
}

/// What is known of one address. Times are monotonic.
#[derive(Default)]
struct Known {
    keys: Arc<[PublicJwk]>,
    fetched: Option<Duration>,
    attempted: Option<Duration>,
    failure: Option<NoKeys>,
}

/// The sets of all clients that publish theirs.
pub struct RemoteKeySets {
    outbound: Outbound,
    known: Mutex<HashMap<JwksUri, Arc<tokio::sync::Mutex<Known>>>>,
}

impl RemoteKeySets {
    /// Nothing is fetched yet.
    #[must_use]
    pub fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            known: Mutex::default(),
        }
    }

    /// The keys that are published at this address; `fits` says whether what is needed is among them. `now` is monotonic.
    ///
    /// # Errors
    /// Why there are none, when none can be had that are younger than [`LONGEST`].
    pub async fn keys(
        &self,
        uri: &JwksUri,
        now: Duration,
        fits: impl Fn(&[PublicJwk]) -> bool,
    ) -> Result<Arc<[PublicJwk]>, NoKeys> {
        let known = self.known_at(uri);
        // One fetch at a time; only those wait who need the same set.
        let mut known = known.lock().await;
        let since = |moment: Option<Duration>| moment.map(|moment| now.saturating_sub(moment));
        let is_young = |limit: Duration, moment| since(moment).is_some_and(|age| age < limit);
        let is_wanted = !is_young(FRESH, known.fetched) || !fits(&known.keys);
        if is_wanted && !is_young(COOLDOWN, known.attempted) {
            known.attempted = Some(now);
            match self.fetch(uri).await {
                Ok(keys) => {
                    known.keys = keys;
                    known.fetched = Some(now);
                    known.failure = None;
                }
                Err(failure) => {
                    tracing::warn!(jwks_uri = %uri, %failure, "a client's key set was not renewed");
                    known.failure = Some(failure);
                }
            }
        }
        if is_young(LONGEST, known.fetched) {
            return Ok(Arc::clone(&known.keys));
        }
        // Cut off in the middle of its first fetch: the next attempt says more.
        Err(known.failure.unwrap_or(NoKeys::Fetch(FetchError::Unreachable)))
    }

    fn known_at(&self, uri: &JwksUri) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST && !known.contains_key(uri) {
            known.clear();
        }
        Arc::clone(known.entry(uri.clone()).or_default())
    }

    async fn fetch(&self, uri: &JwksUri) -> Result<Arc<[PublicJwk]>, NoKeys> {
        let document = self.outbound.document(uri.url()).await?;
        let keys = usable(&document);
        if keys.is_empty() {
            return Err(NoKeys::NoKeySet);
        }
        Ok(keys.into())
    }
}
