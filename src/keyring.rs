//! The shared snapshot that requests sign and publish with: swapped whole, read without a lock.
//!
//! Publishing outlives signing: a node that cannot reach the database keeps serving the set it has, and never drops a key
//! by itself; it stops signing once its snapshot is older than J.

mod ledger;
mod memory;
mod snapshot;
mod vanished;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::clock::{Clock, Reading, Seconds, UnixTime};
use crate::crypto::sealing::{Binding, MasterKeys};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::jose::jwt::{AccessTokenClaims, IdTokenClaims, Signer, TokenType, random_jti};
use crate::jose::key::KeyError;
use crate::keys::policy::Policy;
use crate::keys::trusted_time::{ClockRecord, Doubt, Reference, TrustedTime};
use crate::oauth::token::Granted;
use crate::oauth::verification::{self, AccessToken, Expected, HintedLogin, VerificationError};
use crate::revocations::{Endings, Revocations};
use crate::store::key_uses::KeyUse;
use crate::store::nodes::{Heartbeat, Place};
use crate::store::{Db, StoreError};
use crate::values::SessionId;

pub use ledger::{Ledger, LedgerError, text_of};
pub use memory::Lost;
use snapshot::read;
pub use snapshot::{Document, Snapshot};
pub use vanished::Vanished;

/// What a private half is sealed for; part of the associated data.
pub const SIGNING_PURPOSE: &str = "signing-key";

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
    Refused(#[from] VerificationError),
    /// It was denied by name.
    #[error("it was denied by its jti")]
    Denied,
    /// Its session has ended.
    #[error("its session has ended")]
    Ended,
}

/// A key that may sign at one moment, and that moment: the one `now` of a request.
pub struct Signing {
    /// The time that the token is issued at.
    pub now: UnixTime,
    /// The longest lifetime that the key may give.
    pub max_token_ttl: Seconds,
    kid: Kid,
    signer: Arc<Signer>,
}

impl Signing {
    /// Signs an access token.
    ///
    /// # Errors
    /// When it would live longer than its key allows, or the signature fails.
    pub fn sign(&self, typ: TokenType, claims: &AccessTokenClaims) -> Result<String, CannotSign> {
        let ttl = Seconds(claims.exp.saturating_sub(claims.iat));
        if ttl > self.max_token_ttl {
            return Err(CannotSign::TooLong {
                ttl,
                longest: self.max_token_ttl,
            });
        }
        self.signer
            .sign_access_token(typ, claims)
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
    /// The name of this process in the table of nodes.
    node_id: String,
    place: Place,
    fingerprint: String,
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
        let first = read(&db, &master_key, &policy, &clock, ledger.as_deref(), None, None).await?;
        Ok(Self {
            ledger,
            node_id: uuid::Uuid::new_v4().to_string(),
            place: Place::default(),
            fingerprint: policy.fingerprint(),
            db,
            master_key,
            policy,
            clock,
            current: ArcSwap::from_pointee(first),
            uses: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
        })
    }

    /// Says in every heartbeat where this node runs.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Writes a heartbeat, reads the keys again and serves what follows from them.
    ///
    /// # Errors
    /// When the database does not answer, or does not commit the heartbeat, as a standby; the snapshot stays as it was.
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
            Some(&self.heartbeat(&previous)),
            Some(&previous),
        )
        .await?;
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        if next.change != previous.change {
            // Only now is it served.
            self.db.beat(&self.heartbeat(&next)).await?;
        }
        Ok(next)
    }

    /// What this node says of itself while it serves this snapshot.
    #[must_use]
    pub fn heartbeat(&self, snapshot: &Snapshot) -> Heartbeat {
        let reading = self.clock.read();
        let now = snapshot.now(reading, &self.policy);
        Heartbeat {
            node_id: self.node_id.clone(),
            seen_at: now.0,
            version: snapshot.version,
            change_id: Some(snapshot.change.to_string()),
            policy_fingerprint: self.fingerprint.clone(),
            clock_offset: (reading.wall - now).0,
            master_keys: self
                .master_key
                .ids()
                .map(|id| id.to_string())
                .collect::<Vec<_>>()
                .join(" "),
            place: self.place.clone(),
        }
    }

    /// The name of this process in the table of nodes.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// What is served now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The ledger of revoked keys; none where no file is named for it.
    #[must_use]
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
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
            .active(alg, snapshot.keys_at(reading, &self.policy))
            .filter(|active| snapshot.key_set.contains(&active.kid))
            .ok_or(CannotSign::NoActiveKey(alg))?;
        let signer = snapshot.signers.get(&active.kid).ok_or(CannotSign::NoActiveKey(alg))?;
        Ok(Signing {
            now,
            max_token_ttl: active.max_token_ttl,
            kid: active.kid.clone(),
            signer: Arc::clone(signer),
        })
    }
}

/// A token that was signed, with what it says.
pub struct Issued {
    /// The token.
    pub token: String,
    /// The key that signed it.
    pub kid: Kid,
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
        let claims = granted
            .claims(issuer, random_jti(), signing.now, ttl, self.policy.windows().clock_skew)
            .map_err(|_| CannotSign::Signature)?;
        let token = signing.sign(granted.token_type, &claims)?;
        Ok(Issued {
            token,
            kid: signing.kid,
            claims,
        })
    }

    /// Signs the ID token that these claims make of its time and its lifetime, which is `ttl` or what its key allows.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn issue_id_token(
        &self,
        alg: Algorithm,
        ttl: Seconds,
        reading: Reading,
        claims: impl FnOnce(UnixTime, Seconds) -> IdTokenClaims,
    ) -> Result<String, CannotSign> {
        let signing = self.signing(alg, reading)?;
        let claims = claims(signing.now, ttl.min(signing.max_token_ttl));
        signing
            .signer
            .sign_id_token(&claims)
            .map_err(|_: KeyError| CannotSign::Signature)
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
        // Before the first heartbeat only the keys are read.
        if age > windows.replica_refresh || snapshot.followed.is_none() {
            return Err(CannotVerify::Stale { age });
        }
        if !snapshot.trusted.agrees_with_database() {
            return Err(CannotVerify::ClockInDoubt);
        }
        let expected = Expected {
            issuer,
            now: snapshot.now(reading, &self.policy),
            clock_skew: windows.clock_skew,
        };
        let keys_at = snapshot.keys_at(reading, &self.policy);
        let find = |kid: &Kid| snapshot.trusted_key(&self.policy, keys_at, kid);
        Ok(match verification::verify(token, &expected, find) {
            Ok(token) if snapshot.is_denied(&token.jti) => Err(Inactive::Denied),
            Ok(token)
                if token
                    .session
                    .as_ref()
                    .is_some_and(|session| snapshot.has_ended(session)) =>
            {
                Err(Inactive::Ended)
            }
            Ok(token) => {
                self.note_use(token.kid.clone(), KeyUse::once(expected.now));
                Ok(token)
            }
            Err(refused) => Err(refused.into()),
        })
    }

    /// The login that an ID token of this server names, also an expired one.
    #[must_use]
    pub fn read_hint(&self, token: &str, issuer: &str, reading: Reading) -> Option<HintedLogin> {
        let snapshot = self.current.load();
        let keys_at = snapshot.keys_at(reading, &self.policy);
        let find = |kid: &Kid| snapshot.trusted_key(&self.policy, keys_at, kid);
        verification::read_hint(token, issuer, find)
    }

    /// Refuses the access tokens of these sessions from now on, on this node; the others read it from the database. The commit
    /// that ended them comes first.
    pub fn sessions_ended(&self, sids: impl IntoIterator<Item = SessionId>) {
        let reading = self.clock.read();
        let until = reading.wall + self.endings().outlived_for();
        for sid in sids {
            let sessions = &self.revocations().sessions;
            sessions.commit(&sid.to_string(), until, reading.monotonic);
        }
    }

    /// The same for a session that had ended before, of which this node may not know yet. Once the end does not count any more, no look
    /// finds it, and no token of the session is accepted.
    pub fn session_had_ended(&self, sid: SessionId, at: UnixTime, expires_at: UnixTime) {
        let until = self.endings().of_session(at, expires_at);
        let current = self.current.load();
        if until > current.trusted().reached() {
            let now = self.clock.read().monotonic;
            current.revocations().sessions.commit(&sid.to_string(), until, now);
        }
    }

    fn endings(&self) -> Endings {
        Endings {
            skew: self.policy.windows().clock_skew,
        }
    }

    /// Refuses a token from now on, on this node; the others read it from the database. The commit that denied it comes first.
    pub fn token_denied(&self, jti: &str) {
        let reading = self.clock.read();
        let windows = self.policy.windows();
        let until = reading.wall + windows.max_token_ttl + windows.verifier_leeway;
        self.revocations().tokens.commit(jti, until, reading.monotonic);
    }

    /// What is refused before its time.
    #[must_use]
    pub fn revocations(&self) -> Arc<Revocations> {
        Arc::clone(&self.current.load().revocations)
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

/// Compares this machine's clock with the database's clock and record, and with the previous look.
///
/// # Errors
/// When the database does not answer.
pub async fn trusted_time(
    db: &Db,
    policy: &Policy,
    clock: &Clock,
    previous: Option<&TrustedTime>,
) -> Result<TrustedTime, StoreError> {
    let record = db.clock_record().await?;
    look(db, policy, clock, previous, record).await
}

/// The same soon after a look. It leaves the record alone, so a transaction may be under way on an embedded database.
///
/// # Errors
/// When the database does not answer.
pub async fn trusted_time_again(
    db: &Db,
    policy: &Policy,
    clock: &Clock,
    previous: &TrustedTime,
) -> Result<TrustedTime, StoreError> {
    look(db, policy, clock, Some(previous), previous.record()).await
}

/// A server that runs and says that its clock is in doubt, with what its clock is off by. A command cannot see a step that happened
/// before it began; to it, a clock that jumped looks like the end of a long stop.
///
/// # Errors
/// When the database does not answer.
pub async fn node_in_doubt(
    db: &Db,
    policy: &Policy,
    trusted: &TrustedTime,
) -> Result<Option<(Heartbeat, Doubt)>, StoreError> {
    // A node in doubt writes the time that it has reached.
    let memory = policy.windows().snapshot_max_age + policy.windows().clock_skew;
    let nodes = db.living_nodes(trusted.reached(), memory).await?.into_iter();
    let off_by = |node: &Heartbeat| Seconds(node.clock_offset);
    let mut doubtful = nodes.filter(|node| off_by(node).abs() > policy.tolerated_difference());
    Ok(doubtful.next().map(|node| {
        let doubt = match off_by(&node) {
            by if by < Seconds::ZERO => Doubt::Behind(by),
            by => Doubt::Ahead(by),
        };
        (node, doubt)
    }))
}

async fn look(
    db: &Db,
    policy: &Policy,
    clock: &Clock,
    previous: Option<&TrustedTime>,
    record: ClockRecord,
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
        record,
        reading,
        reference,
        policy.windows().clock_skew,
    ))
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
