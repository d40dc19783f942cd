//! The keys that others publish (`jwks_uri`, RFC 7591 section 2): clients that prove themselves by signature, and providers that
//! people log in with. They are fetched when they are needed, and kept a while.
//!
//! A new key is accepted at once: a token that no cached key fits causes a fetch. A key that was taken out is accepted until the set is
//! renewed: that begins with the first request after [`FRESH`], and a request after [`STALE`] waits for it. If the key set cannot be
//! fetched, the key is accepted for [`LONGEST`] at most.

use std::sync::Arc;
use std::time::Duration;

use crate::jose::jwk::PublicJwk;
use crate::jose::jwk_set::{IssuerKey, JwkSetError};
use crate::oauth::client::JwksUri;
use crate::oauth::client_keys::{usable, usable_of_issuers};

use super::kept::{CacheWindows, KeptDocuments};
use super::{FetchError, Outbound};

/// How long a set is used without asking for a newer one.
pub const FRESH: Duration = Duration::from_mins(5);
/// How long a set is used at once, while a newer one is asked for.
pub const STALE: Duration = Duration::from_mins(15);
/// How long a set is used when no newer one can be had.
pub const LONGEST: Duration = Duration::from_hours(1);
/// From the end of an attempt, whatever came of it, none is made for this long: unknown kids must not make us an amplifier. Short,
/// so that a client may sign with a key that it published a moment ago.
pub const COOLDOWN: Duration = Duration::from_secs(1);

/// Why published keys cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// They were not fetched.
    #[error("the key set at the jwks_uri was not fetched: {0}")]
    Fetch(#[from] FetchError),
    /// It is something else.
    #[error("the document at the jwks_uri is no JWK set with a public RSA key from 2048 bits or a P-256 key")]
    NoKeySet,
}

/// Reads the keys of a set that can be used.
type Read<K> = fn(&[u8]) -> Result<Vec<K>, JwkSetError>;

/// The sets of all who publish theirs.
pub struct RemoteKeySets<K = PublicJwk> {
    outbound: Outbound,
    read: Read<K>,
    kept: KeptDocuments<JwksUri, Arc<[K]>, NoKeys>,
}

impl RemoteKeySets {
    /// The sets of clients; nothing is fetched yet.
    #[must_use]
    pub fn new(outbound: Outbound) -> Self {
        Self::with(outbound, usable)
    }
}

impl RemoteKeySets<IssuerKey> {
    /// The sets of OpenID providers; nothing is fetched yet.
    #[must_use]
    pub fn of_issuers(outbound: Outbound) -> Self {
        Self::with(outbound, usable_of_issuers)
    }
}

impl<K: Send + Sync + 'static> RemoteKeySets<K> {
    fn with(outbound: Outbound, read: Read<K>) -> Self {
        let windows = CacheWindows {
            fresh: FRESH,
            stale: STALE,
            longest: LONGEST,
            cooldown: COOLDOWN,
        };
        Self {
            outbound,
            read,
            kept: KeptDocuments::new(windows),
        }
    }

    /// The keys that are published at this address; `fits` says whether what is needed is among them. `now` is monotonic.
    ///
    /// # Errors
    /// Why there are none, when none can be had that are younger than [`LONGEST`].
    pub async fn keys(&self, uri: &JwksUri, now: Duration, fits: impl Fn(&[K]) -> bool) -> Result<Arc<[K]>, NoKeys> {
        let host = uri.url().host_str().unwrap_or_default();
        let fetch = || fetch(self.outbound.clone(), uri.clone(), self.read);
        self.kept.find(uri, host, now, |keys| fits(keys), fetch).await
    }
}

async fn fetch<K>(outbound: Outbound, uri: JwksUri, read: Read<K>) -> Result<Arc<[K]>, NoKeys> {
    let fetched = outbound.document(uri.url()).await;
    let keys = fetched.map_err(NoKeys::from).and_then(|document| {
        let usable = read(&document).map_err(|reason| {
            tracing::warn!(jwks_uri = %uri, %reason, "a key set cannot be used");
            NoKeys::NoKeySet
        })?;
        Ok(usable.into())
    });
    if let Err(failure) = &keys {
        tracing::warn!(jwks_uri = %uri, %failure, "a key set was not renewed");
    }
    keys
}
