//! The shared snapshot that requests sign and publish with: swapped whole, read without a lock.
//!
//! Publishing outlives signing: a node that cannot reach the database keeps serving the set it has, and never drops a key
//! by itself; it stops signing once its snapshot is older than J.

mod ledger;
mod vanished;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::clock::{Clock, Reading, Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, sha256_base64url};
use crate::jose::jws::VerifyingKey;
use crate::jose::jwt::{AccessTokenClaims, Signer, random_jti};
use crate::jose::key::{KeyError, PrivateKey};
use crate::jose::seal::{Binding, MasterKeys, SealError};
use crate::keys::keyset::KeySet;
use crate::keys::lifecycle::Keys;
use crate::keys::plan;
use crate::keys::policy::Policy;
use crate::keys::trusted_time::{Reference, TrustedTime};
use crate::oauth::token::Granted;
use crate::oauth::verification::{self, AccessToken, Expected, Refused, TrustedKey, trusted_row};
use crate::store::denied_tokens::DeniedToken;
use crate::store::key_uses::KeyUse;
use crate::store::signing_keys::{StoredKey, StoredKeys};
use crate::store::{Db, StoreError};

pub use ledger::{Ledger, LedgerError};
pub use vanished::Vanished;

/// What a private half is sealed for; part of the associated data.
pub const SIGNING_PURPOSE: &str = "signing-key";

/// The keys at one moment, and all that follows from them.
pub struct Snapshot {
    /// The version of the rows.
    pub version: i64,
    /// The rows.
    pub keys: Keys,
    /// The keys that are served.
    pub key_set: KeySet,
    /// The document that is served.
    pub document: Document,
    /// Rows whose private half does not open under the master key.
    pub unopened: Vec<Kid>,
    /// Keys that the database trusts although the ledger says that they were revoked: an old backup was put in its place.
    pub distrusted: Vec<Kid>,
    /// Keys whose rows are gone before their time.
    pub vanished: Vec<Vanished>,
    signers: HashMap<Kid, Arc<Signer>>,
    verifying_keys: HashMap<Kid, Arc<VerifyingKey>>,
    denied: HashMap<String, UnixTime>,
    loaded: Reading,
    trusted: TrustedTime,
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

/// Why nothing can be signed at this moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    /// The snapshot is older than J.
    #[error("the keys were last read {age} ago, which is longer than keys.snapshot_max_age")]
    Stale {
        /// Its age.
        age: Seconds,
    },
    /// The clock disagrees with the database's.
    #[error("this machine's clock differs from the database's by more than half of keys.clock_skew")]
    ClockInDoubt,
    /// No key of this algorithm is active.
    #[error("no {0} key is active")]
    NoActiveKey(Algorithm),
    /// The token would outlive what its key allows.
    #[error("the token would live {ttl}, but its key signs tokens of up to {longest}")]
    TooLong {
        /// The lifetime that was asked for.
        ttl: Seconds,
        /// The longest that the key signs.
        longest: Seconds,
    },
    /// The signature itself failed.
    #[error("the signature failed")]
    Signature,
}

/// Why nothing can be said of a token at this moment: neither that it is valid nor that it is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotVerify {
    /// A revocation elsewhere may not have been read.
    #[error("the keys and the denied tokens were last read {age} ago, which is longer than keys.replica_refresh")]
    Stale {
        /// Their age.
        age: Seconds,
    },
    /// The clock disagrees with the database's.
    #[error("this machine's clock differs from the database's by more than half of keys.clock_skew")]
    ClockInDoubt,
}

/// What can be said of a token without asking for its client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inactive {
    /// It is not valid.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was denied by name.
    #[error("it was denied by its jti")]
    Denied,
}

/// A key that may sign at one moment, and that moment: the one `now` of a request.
pub struct Signing {
    /// The time that the token is issued at.
    pub now: UnixTime,
    /// The longest lifetime that the key may give.
    pub max_token_ttl: Seconds,
    signer: Arc<Signer>,
}

impl Signing {
    /// Signs an access token.
    ///
    /// # Errors
    /// When it would live longer than its key allows, or the signature fails.
    pub fn sign(&self, claims: &AccessTokenClaims) -> Result<String, CannotSign> {
        let ttl = Seconds(claims.exp.saturating_sub(claims.iat));
        if ttl > self.max_token_ttl {
            return Err(CannotSign::TooLong {
                ttl,
                longest: self.max_token_ttl,
            });
        }
        self.signer
            .sign_access_token(claims)
            .map_err(|_: KeyError| CannotSign::Signature)
    }
}

/// The current snapshot, and how to read the next one.
pub struct Keyring {
    db: Db,
    master_key: Arc<MasterKeys>,
    policy: Arc<Policy>,
    clock: Clock,
    ledger: Option<Arc<Ledger>>,
    current: ArcSwap<Snapshot>,
    /// What was verified since it was last written down.
    uses: Mutex<HashMap<Kid, KeyUse>>,
    /// One load at a time: an older one must not replace a newer one.
    loading: tokio::sync::Mutex<()>,
}

impl Keyring {
    /// Reads the keys for the first time.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn load(
        db: Db,
        master_key: Arc<MasterKeys>,
        policy: Arc<Policy>,
        clock: Clock,
        ledger: Option<Arc<Ledger>>,
    ) -> Result<Self, StoreError> {
        let first = read(&db, &master_key, &policy, &clock, ledger.as_deref(), None).await?;
        Ok(Self {
            ledger,
            db,
            master_key,
            policy,
            clock,
            current: ArcSwap::from_pointee(first),
            uses: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
        })
    }

    /// Reads the keys again and serves what follows from them.
    ///
    /// # Errors
    /// When the database does not answer; the snapshot stays as it was.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, StoreError> {
        let _one_at_a_time = self.loading.lock().await;
        let previous = self.current.load_full();
        let ledger = self.ledger.as_deref();
        let next = read(
            &self.db,
            &self.master_key,
            &self.policy,
            &self.clock,
            ledger,
            Some(&previous),
        )
        .await?;
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        Ok(next)
    }

    /// What is served now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The key of this algorithm that may sign at this reading.
    ///
    /// # Errors
    /// The reason why none may.
    pub fn signing(&self, alg: Algorithm, reading: Reading) -> Result<Signing, CannotSign> {
        let snapshot = self.current.load();
        let windows = self.policy.windows();
        let age = snapshot.age(reading);
        if age >= windows.snapshot_max_age {
            return Err(CannotSign::Stale { age });
        }
        if !snapshot.trusted.may_sign() {
            return Err(CannotSign::ClockInDoubt);
        }
        let now = snapshot.now(reading, &self.policy);
        let active = snapshot
            .keys
            .active(alg, now)
            .filter(|active| snapshot.key_set.contains(&active.kid))
            .ok_or(CannotSign::NoActiveKey(alg))?;
        let signer = snapshot.signers.get(&active.kid).ok_or(CannotSign::NoActiveKey(alg))?;
        Ok(Signing {
            now,
            max_token_ttl: active.max_token_ttl,
            signer: Arc::clone(signer),
        })
    }
}

/// A token that was signed, with what it says.
pub struct Issued {
    /// The token.
    pub token: String,
    /// Its claims.
    pub claims: AccessTokenClaims,
}

impl Keyring {
    /// Signs the token that was granted.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn issue(&self, granted: &Granted, issuer: &str, reading: Reading) -> Result<Issued, CannotSign> {
        let signing = self.signing(granted.alg, reading)?;
        // A policy that was lengthened a moment ago reaches the key with the next refresh.
        let ttl = granted.ttl.min(signing.max_token_ttl);
        let jti = random_jti().map_err(|_| CannotSign::Signature)?;
        let claims = granted
            .claims(issuer, jti, signing.now, ttl)
            .map_err(|_| CannotSign::Signature)?;
        let token = signing.sign(&claims)?;
        Ok(Issued { token, claims })
    }

    /// Holds a token against the keys and the denied tokens. The answer holds for every revocation that any node made
    /// `replica_refresh` ago or earlier; what is read less often is no answer at all.
    ///
    /// # Errors
    /// When the snapshot is too old, or the clock is in doubt.
    pub fn verify(
        &self,
        token: &str,
        issuer: &str,
        reading: Reading,
    ) -> Result<Result<AccessToken, Inactive>, CannotVerify> {
        let snapshot = self.current.load();
        let windows = self.policy.windows();
        let age = snapshot.age(reading);
        if age > windows.replica_refresh {
            return Err(CannotVerify::Stale { age });
        }
        if !snapshot.trusted.may_sign() {
            return Err(CannotVerify::ClockInDoubt);
        }
        let expected = Expected {
            issuer,
            now: snapshot.now(reading, &self.policy),
            clock_skew: windows.clock_skew,
        };
        let find = |kid: &Kid| snapshot.trusted_key(&self.policy, expected.now, kid);
        Ok(match verification::verify(token, &expected, find) {
            Ok(token) if snapshot.is_denied(&token.jti) => Err(Inactive::Denied),
            Ok(token) => {
                self.note_use(token.kid.clone(), KeyUse::once(expected.now));
                Ok(token)
            }
            Err(refused) => Err(refused.into()),
        })
    }

    fn note_use(&self, kid: Kid, seen: KeyUse) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.entry(kid).and_modify(|sum| *sum = sum.with(seen)).or_insert(seen);
    }

    /// Adds what was verified here to what all nodes have seen.
    ///
    /// # Errors
    /// When the database does not answer; what is not written down waits for the next time.
    pub async fn write_uses_down(&self) -> Result<(), StoreError> {
        let uses = std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner));
        let mut answer = Ok(());
        for (kid, seen) in uses {
            if answer.is_ok() {
                answer = self.db.add_key_use(&kid, seen).await;
            }
            if answer.is_err() {
                self.note_use(kid, seen);
            }
        }
        answer
    }
}

impl Snapshot {
    fn trusted_key(&self, policy: &Policy, now: UnixTime, kid: &Kid) -> Result<TrustedKey<'_>, Refused> {
        let row = trusted_row(&self.keys, policy, now, kid)?;
        let key = self.verifying_keys.get(kid).ok_or(Refused::UnknownKey)?;
        Ok(TrustedKey {
            key,
            // A node with a newer policy may have raised the row's a moment ago.
            max_token_ttl: row.max_token_ttl.max(policy.windows().max_token_ttl),
        })
    }

    /// Whether a token of this name was denied. A row stays until nobody accepts its token, so its time need not be asked.
    #[must_use]
    pub fn is_denied(&self, jti: &str) -> bool {
        self.denied.contains_key(jti)
    }

    /// Whether a denied token may be forgotten at this time.
    #[must_use]
    pub fn has_outlived_denials(&self, now: UnixTime) -> bool {
        self.denied.values().any(|&until| until <= now)
    }

    /// The time to go by at this reading.
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

    /// The enabled algorithms that cannot sign at this moment.
    #[must_use]
    pub fn without_signer(&self, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
        policy
            .algorithms()
            .iter()
            .copied()
            .filter(|&alg| {
                // One that was removed and added again waits for its first activation like a new one.
                let enabled = !self.keys.is_removed(alg, now)
                    && self
                        .keys
                        .line(alg)
                        .iter()
                        .any(|key| key.activates_at <= now && !key.is_keyless());
                let signs = self
                    .keys
                    .active(alg, now)
                    .is_some_and(|key| self.signers.contains_key(&key.kid));
                enabled && !signs
            })
            .collect()
    }

    /// The algorithms whose rotation is late.
    #[must_use]
    pub fn overdue(&self, policy: &Policy, now: UnixTime) -> Vec<Algorithm> {
        plan::overdue(&self.keys, policy, now)
    }
}

async fn read(
    db: &Db,
    master_key: &MasterKeys,
    policy: &Policy,
    clock: &Clock,
    ledger: Option<&Ledger>,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, StoreError> {
    // The age counts from before the rows were read.
    let loaded = clock.read();
    let stored = db.signing_keys().await?;
    let denied = db.denied_tokens().await?;
    let trusted = trusted_time(db, policy, clock, previous.map(|previous| &previous.trusted)).await?;
    if let Some(ledger) = ledger {
        let revoked = stored.rows.iter().filter(|row| row.key.revoked_at.is_some());
        if let Err(error) = ledger.learn(revoked.map(|row| &row.key.kid)) {
            tracing::error!(%error, "a revocation could not be written to the ledger; it holds, but only while this server runs");
        }
    }
    let mut next = Snapshot::new(&stored, master_key, policy, loaded, trusted, ledger, previous);
    next.denied = denied
        .into_iter()
        .map(|DeniedToken { jti, denied_until }| (jti, UnixTime(denied_until)))
        .collect();
    Ok(next)
}

/// Holds this machine's clock against its reference.
///
/// # Errors
/// When the database does not answer.
pub async fn trusted_time(
    db: &Db,
    policy: &Policy,
    clock: &Clock,
    previous: Option<&TrustedTime>,
) -> Result<TrustedTime, StoreError> {
    let before = clock.read();
    let reference = db.time_reference().await?;
    let mut reading = clock.read();
    if let Reference::Database(time) = reference {
        // The database read its clock some time between the two readings; only what lies outside is a difference.
        reading.wall = time.max(before.wall).min(reading.wall);
    }
    Ok(TrustedTime::check(
        previous,
        reading,
        reference,
        policy.windows().clock_skew,
    ))
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
        let keys = stored.keys();
        let is_revoked = |kid: &Kid| ledger.is_some_and(|ledger| ledger.names(kid));
        let distrusted: Vec<Kid> = keys
            .iter()
            .filter(|key| key.revoked_at.is_none() && is_revoked(&key.kid))
            .map(|key| key.kid.clone())
            .collect();
        let vanished = previous.map_or_else(Vec::new, |previous| {
            vanished::vanished(&previous.vanished, &previous.keys, &keys, policy, trusted.checked_at())
        });
        log_news(&distrusted, &vanished, previous);
        let mut key_set = KeySet::at(&keys, policy, trusted.checked_at());
        if let Some(previous) = previous.filter(|_| !trusted.may_plan()) {
            // While the clock is in doubt no key leaves, unless it was revoked.
            let kept = previous
                .key_set
                .jwks()
                .iter()
                .filter(|jwk| keys.revoked_at(&jwk.kid).is_none());
            key_set = key_set.union(kept.cloned());
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
            verifying_keys: verifying_keys(&key_set, previous),
            denied: HashMap::new(),
            keys,
            key_set,
            document,
            unopened,
            distrusted,
            vanished,
            signers,
            loaded,
            trusted,
        }
    }
}

/// The public halves of the keys that are served, parsed once in their life.
fn verifying_keys(key_set: &KeySet, previous: Option<&Snapshot>) -> HashMap<Kid, Arc<VerifyingKey>> {
    let mut parsed = HashMap::new();
    for jwk in key_set.jwks() {
        // The kid is the thumbprint, or names the same key for ever: a known one has not changed.
        let known = previous.and_then(|previous| previous.verifying_keys.get(&jwk.kid));
        match known.map_or_else(|| VerifyingKey::new(jwk).map(Arc::new), |known| Ok(Arc::clone(known))) {
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
                "the ledger says that this key was revoked, but the database trusts it, as after an old backup; it neither \
                 signs nor is published here: revoke it again with 'keyround keys revoke'"
            );
        }
    }
    for Vanished { jwk, until } in vanished {
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

/// What ties a private half to its row: swapped rows do not open.
#[must_use]
pub fn binding(kid: &Kid, alg: Algorithm) -> Binding<'_> {
    Binding {
        kid: kid.as_str(),
        algorithm: alg.name(),
        purpose: SIGNING_PURPOSE,
    }
}

/// What ties a row of `secrets` to its name.
#[must_use]
pub const fn secret_binding(name: &str) -> Binding<'_> {
    Binding {
        kid: name,
        algorithm: "HMAC-SHA256",
        purpose: name,
    }
}
