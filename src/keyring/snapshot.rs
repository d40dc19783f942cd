//! The keys at one moment, and all that follows from them: built at every look at the database, never changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::{Clock, Reading, Seconds, UnixTime};
use crate::crypto::sealing::{MasterKeys, SealError};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, PublicJwk, sha256_base64url};
use crate::jose::jws::SignatureKey;
use crate::jose::jwt::{SessionClaims, Signer};
use crate::jose::key::{KeyError, PrivateKey};
use crate::keys::keyset::KeySet;
use crate::keys::lifecycle::Keys;
use crate::keys::plan;
use crate::keys::policy::Policy;
use crate::keys::trusted_time::TrustedTime;
use crate::oauth::verification::{TrustedKey, VerificationError, trusted_row};
use crate::revocations::{Endings, Followed, Revocations, Times};
use crate::store::look::{Known, News};
use crate::store::nodes::Heartbeat;
use crate::store::signing_keys::{StoredKey, StoredKeys};
use crate::store::{ChangeId, Db, StoreError};
use crate::values::{LONGEST_ACCESS_TOKEN, SessionId};

use super::ledger::Ledger;
use super::memory::{self, DisabledTenant, Lost};
use super::vanished::{self, Vanished};
use super::{binding, trusted_time};

/// The keys at one moment, and all that follows from them.
pub struct Snapshot {
    /// The version of the rows.
    pub version: i64,
    /// The last change of the rows.
    pub change: ChangeId,
    /// The rows.
    pub keys: Keys,
    /// The keys that are served.
    pub key_set: KeySet,
    /// The document that is served.
    pub document: Document,
    /// Rows whose private half does not open under the master key.
    pub unopened: Vec<Kid>,
    /// Keys of either kind that the database trusts although they were revoked: the ledger says so, as after an old backup, an earlier
    /// snapshot does, or another row of the same key material does, as an older version left it.
    pub distrusted: Vec<Kid>,
    /// The thumbprints of all keys that this node has seen revoked. Beside PostgreSQL there may be no ledger.
    revoked: Arc<BTreeSet<Kid>>,
    /// Keys whose rows are gone before their time.
    pub vanished: Vec<Vanished>,
    pub(super) signers: HashMap<Kid, Arc<Signer>>,
    pub(super) verifying_keys: HashMap<Kid, Arc<SignatureKey>>,
    /// What is refused before its time. It is the same for every snapshot of a node: news is in force as soon as it is read.
    pub(super) revocations: Arc<Revocations>,
    /// How far the revocations were read; none before the first heartbeat.
    pub(super) followed: Option<Followed>,
    pub(super) disabled_tenants: Arc<HashMap<String, DisabledTenant>>,
    /// What the database lacks although this node knew it.
    pub lost: Lost,
    pub(super) loaded: Reading,
    pub(super) trusted: TrustedTime,
}

/// The key set as bytes, with their strong entity tag (RFC 9110 section 8.8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The JSON.
    pub body: Bytes,
    /// The tag, in its quotes.
    pub etag: String,
}

impl Document {
    /// The document of this key set.
    #[must_use]
    pub fn new(key_set: &KeySet) -> Self {
        let body = Bytes::from(key_set.to_json());
        let etag = format!("\"{}\"", sha256_base64url(&body));
        Self { body, etag }
    }
}

impl Snapshot {
    pub(super) fn trusted_key(
        &self,
        policy: &Policy,
        now: UnixTime,
        kid: &Kid,
    ) -> Result<TrustedKey<'_>, VerificationError> {
        let max_token_ttl = match trusted_row(&self.keys, policy, now, kid) {
            Ok(row) => row.max_token_ttl,
            // Its tokens stay valid as long as it is published.
            Err(VerificationError::UnknownKey) => self
                .vanished
                .iter()
                .find(|vanished| vanished.jwk.kid == *kid && vanished.until > now)
                .and_then(|vanished| vanished.max_token_ttl)
                .ok_or(VerificationError::UnknownKey)?,
            Err(refused) => return Err(refused),
        };
        let key = self.verifying_keys.get(kid).ok_or(VerificationError::UnknownKey)?;
        Ok(TrustedKey {
            key,
            // A node with a newer policy may have raised the row's a moment ago.
            max_token_ttl: max_token_ttl.max(policy.windows().max_token_ttl),
        })
    }

    /// Whether a token of this name was denied. A row stays until nobody accepts its token, so its time need not be asked.
    #[must_use]
    pub fn is_denied(&self, jti: &str) -> bool {
        self.revocations.tokens.contains(jti)
    }

    /// Whether the login session or the grant has ended, or its tenant was disabled.
    #[must_use]
    pub fn has_ended(&self, session: &SessionClaims) -> bool {
        self.revocations.sessions.contains(&session.sid)
            || session.grant() != session.sid && self.revocations.sessions.contains(session.grant())
            || self.disabled_tenants.contains_key(&session.tid)
            || self.was_left_behind(session)
    }

    /// Whether the session is one of those that no backup holds: it began before this database was restored.
    fn was_left_behind(&self, session: &SessionClaims) -> bool {
        let Some(restored) = self.trusted.record().restored else {
            return false;
        };
        // Later there is no access token from before.
        let last_token = restored + LONGEST_ACCESS_TOKEN * 2;
        let began = || session.sid.parse::<SessionId>().map(SessionId::created_at);
        self.trusted.checked_at() < last_token && began().is_ok_and(|began| began < restored)
    }

    /// What is refused before its time.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The time that keys go by at this reading: ahead of it nothing is dropped and no key signs.
    #[must_use]
    pub fn keys_at(&self, reading: Reading, policy: &Policy) -> UnixTime {
        self.trusted.reached_at(reading, policy.windows().clock_skew)
    }

    /// The time that tokens and sessions go by at this reading.
    #[must_use]
    pub fn now(&self, reading: Reading, policy: &Policy) -> UnixTime {
        self.trusted.now(reading, policy.windows().clock_skew)
    }

    /// How old the rows are, by whichever clock says more.
    #[must_use]
    pub fn age(&self, reading: Reading) -> Seconds {
        let by_monotonic = reading.monotonic.saturating_sub(self.loaded.monotonic).as_secs();
        (reading.wall - self.loaded.wall).max(Seconds(i64::try_from(by_monotonic).unwrap_or(i64::MAX)))
    }

    /// Whether the wall clock is believed, and what follows.
    #[must_use]
    pub const fn trusted(&self) -> &TrustedTime {
        &self.trusted
    }

    /// For how long this node may go without reading the keys and still serve every key in time: the shortest lead time
    /// that counts, less what a commit, verifiers and clocks take of it.
    #[must_use]
    pub fn publishing_bound(&self, policy: &Policy) -> Seconds {
        let newest = self
            .keys
            .algorithms()
            .into_iter()
            .filter_map(|alg| self.keys.line(alg).last())
            .map(|key| key.prepublish);
        let shortest = newest
            .min()
            .unwrap_or(policy.windows().prepublish)
            .min(policy.windows().prepublish);
        shortest - policy.commit_share() - policy.windows().verifier_cache - policy.windows().clock_skew
    }

    /// The algorithms that should sign at this moment and cannot: no key is active, or its private half does not open.
    #[must_use]
    pub fn without_signer(&self, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
        let without_active = plan::without_active(&self.keys, policy, now);
        let signs = |alg: Algorithm| {
            let active = self.keys.active(alg, now);
            active.is_none_or(|key| self.signers.contains_key(&key.kid))
        };
        plan::continued(&self.keys, policy)
            .into_iter()
            .filter(|&alg| without_active.contains(&alg) || !signs(alg))
            .collect()
    }

    /// The algorithms that the settings leave out though they were not removed.
    #[must_use]
    pub fn left_out(&self, policy: &Policy) -> Vec<Algorithm> {
        plan::left_out(&self.keys, policy)
    }

    /// The algorithms whose rotation is late.
    #[must_use]
    pub fn overdue(&self, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
        plan::overdue(&self.keys, policy, now)
    }
}

pub(super) async fn read(
    db: &Db,
    master_key: &MasterKeys,
    policy: &Policy,
    clock: &Clock,
    ledger: Option<&Ledger>,
    heartbeat: Option<&Heartbeat>,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, StoreError> {
    // The age counts from before the heartbeat and the reads.
    let loaded = clock.read();
    let trusted = trusted_time(db, policy, clock, previous.map(|previous| &previous.trusted)).await?;
    // Before the rows are read: what a node in doubt has signed is kept, or it learns that this one is sure.
    let trusted = match write_record(db, policy, trusted).await {
        // A first look may find a database that takes no writes.
        Err(error) if previous.is_none() => {
            tracing::debug!(%error, "the time that was reached could not be written");
            trusted
        }
        written => written?,
    };
    // By the time that was reached, which no wrong clock moves ahead. Twice S: the row was stamped by another clock, and is
    // compared with a third.
    let skew = policy.windows().clock_skew;
    let endings = Endings { skew };
    let known = Known {
        followed: previous.and_then(|previous| previous.followed.as_ref()),
        // Until a lost one is disabled again, or it is too old to be lost.
        reads_tenants: previous.is_none_or(|previous| !previous.lost.tenants.is_empty()),
        endings,
        ended_since: trusted.reached() - endings.outlived_for(),
    };
    let revocations = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.revocations));
    let look = match heartbeat {
        Some(heartbeat) => db.beat_and_look(heartbeat, &known, &revocations).await?,
        None => db.look().await?,
    };
    let stored = look.keys;
    if let Some(ledger) = ledger {
        let keys = stored.keys();
        let revoked = keys.jwks().filter(|(_, revoked_at)| revoked_at.is_some());
        let thumbprints: Vec<Kid> = revoked.map(|(jwk, _)| jwk.thumbprint()).collect();
        ledger.follow(&thumbprints);
    }
    let mut next = Snapshot::new(&stored, master_key, policy, loaded, trusted, ledger, previous);
    let now = next.trusted.checked_at().max(next.trusted.reached());
    let times = Times {
        now,
        skew,
        began: loaded.monotonic,
    };
    next.followed = match look.news {
        News::Unread => None,
        News::Changes(changes, followed) => {
            revocations.apply(&changes, &times);
            Some(followed)
        }
        News::Whole(followed) => {
            revocations.end_whole(&times);
            Some(followed)
        }
    };
    revocations.settle(&times);
    next.revocations = revocations;
    memory::follow_tenants(db, previous, &mut next, look.disabled_tenants).await?;
    next.lost.follow(&next.revocations);
    Ok(next)
}

/// Writes down how far time has come, now and then: a start on a wrong clock is noticed by it. A node that disagrees with the
/// database's clock writes nothing.
async fn write_record(db: &Db, policy: &Policy, trusted: TrustedTime) -> Result<TrustedTime, StoreError> {
    if !trusted.should_write_record(policy.windows().clock_skew) {
        return Ok(trusted);
    }
    Ok(match db.write_clock_record(&trusted, policy).await? {
        Some(record) => trusted.having_written(record),
        // In doubt it does not sign before its next look.
        None => trusted,
    })
}

impl Snapshot {
    fn new(
        stored: &StoredKeys,
        master_key: &MasterKeys,
        policy: &Policy,
        loaded: Reading,
        trusted: TrustedTime,
        ledger: Option<&Ledger>,
        previous: Option<&Self>,
    ) -> Self {
        let keys = stored
            .keys()
            .while_doubted(policy, trusted.record().doubted, trusted.reached());
        let (keys, lifetimes) = match previous {
            Some(previous) => keys.with_lifetimes_of(&previous.keys),
            None => (keys, Vec::new()),
        };
        let revoked = seen_revoked(&keys, previous);
        let was_revoked =
            |jwk: &PublicJwk| !revoked.is_empty() && jwk.material_names().iter().any(|name| revoked.contains(name));
        let is_revoked =
            |jwk: &PublicJwk| keys.revokes(jwk) || was_revoked(jwk) || ledger.is_some_and(|ledger| ledger.names(jwk));
        let distrusted: Vec<Kid> = keys
            .jwks()
            .filter(|(jwk, revoked_at)| revoked_at.is_none() && is_revoked(jwk))
            .map(|(jwk, _)| jwk.kid.clone())
            .collect();
        let vanished = previous.map_or_else(Vec::new, |previous| {
            vanished::vanished(&previous.vanished, &previous.keys, &keys, policy, trusted.reached())
        });
        log_news(&distrusted, &vanished, previous);
        let mut key_set = KeySet::at(&keys, policy, trusted.reached());
        if let Some(previous) = previous.filter(|_| !trusted.may_plan()) {
            // While the clock is in doubt no key leaves, unless it was revoked.
            key_set = key_set.union(previous.key_set.jwks().iter().cloned());
        }
        key_set = key_set
            .union(vanished.iter().map(|vanished| vanished.jwk.clone()))
            .without(is_revoked);
        let mut signers = HashMap::new();
        let mut unopened = Vec::new();
        let usable = |row: &&StoredKey| row.key.revoked_at.is_none() && !distrusted.contains(&row.key.kid);
        for row in stored.rows.iter().filter(usable) {
            let Some(sealed) = &row.sealed else { continue };
            let known = previous
                .and_then(|previous| previous.signers.get(&row.key.kid))
                .cloned();
            match known.map_or_else(|| open(master_key, row, sealed).map(Arc::new), Ok) {
                Ok(signer) => {
                    signers.insert(row.key.kid.clone(), signer);
                }
                Err(error) => {
                    if previous.is_none_or(|previous| !previous.unopened.contains(&row.key.kid)) {
                        tracing::error!(key.kid = %row.key.kid, %error, "a private half does not open");
                    }
                    unopened.push(row.key.kid.clone());
                }
            }
        }
        let document = match previous {
            Some(previous) if previous.key_set == key_set => previous.document.clone(),
            _ => Document::new(&key_set),
        };
        Self {
            version: stored.version,
            change: stored.change,
            verifying_keys: verifying_keys(&key_set, previous),
            revocations: Arc::default(),
            followed: None,
            disabled_tenants: Arc::default(),
            lost: Lost {
                lifetimes,
                ..Lost::default()
            },
            keys,
            key_set,
            document,
            unopened,
            distrusted,
            revoked,
            vanished,
            signers,
            loaded,
            trusted,
        }
    }
}

/// What the snapshots before have seen revoked, and what these rows say.
fn seen_revoked(keys: &Keys, previous: Option<&Snapshot>) -> Arc<BTreeSet<Kid>> {
    let known = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.revoked));
    let of_rows = keys.jwks().filter(|(_, revoked_at)| revoked_at.is_some());
    let new: Vec<Kid> = of_rows
        .map(|(jwk, _)| jwk.thumbprint())
        .filter(|name| !known.contains(name))
        .collect();
    if new.is_empty() {
        return known;
    }
    Arc::new(known.iter().cloned().chain(new).collect())
}

/// The public halves of the keys that are served, parsed once in their life.
fn verifying_keys(key_set: &KeySet, previous: Option<&Snapshot>) -> HashMap<Kid, Arc<SignatureKey>> {
    let mut parsed = HashMap::new();
    for jwk in key_set.jwks() {
        // An imported kid names another key if the database lost one import and took another.
        let known = previous
            .filter(|previous| previous.key_set.jwks().contains(jwk))
            .and_then(|previous| previous.verifying_keys.get(&jwk.kid));
        match known.map_or_else(|| SignatureKey::new(jwk).map(Arc::new), |known| Ok(Arc::clone(known))) {
            Ok(key) => {
                parsed.insert(jwk.kid.clone(), key);
            }
            Err(error) => tracing::error!(key.kid = %jwk.kid, %error, "a public key cannot be used"),
        }
    }
    parsed
}

/// Says once what is new: both mean that the database was changed behind our back.
fn log_news(distrusted: &[Kid], vanished: &[Vanished], previous: Option<&Snapshot>) {
    for kid in distrusted {
        if previous.is_none_or(|previous| !previous.distrusted.contains(kid)) {
            tracing::error!(
                key.kid = %kid,
                "this key was revoked, but the database trusts it, as after an old backup; it neither signs nor is published \
                 here, and this server revokes it again"
            );
        }
    }
    for Vanished { jwk, until, .. } in vanished {
        if previous.is_none_or(|previous| previous.vanished.iter().all(|known| known.jwk.kid != jwk.kid)) {
            tracing::error!(key.kid = %jwk.kid, %until, "a key's row is gone before its time; it stays published");
        }
    }
}

/// Why a stored private half cannot be used.
#[derive(Debug, thiserror::Error)]
enum CannotOpen {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn open(master_key: &MasterKeys, row: &StoredKey, sealed: &str) -> Result<Signer, CannotOpen> {
    let der = master_key.open(&binding(&row.key.kid, row.key.alg), sealed)?;
    let key = PrivateKey::from_pkcs8_der(row.key.alg, &der)?;
    Ok(Signer::new(row.key.kid.clone(), key))
}
