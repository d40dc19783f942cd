//! The scheduled task: load, plan, apply, sleep until the plan's `wake_at` or until told.
//!
//! Two loops, so that nothing waits for key generation: one follows the database and publishes, the other makes keys.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::{Clock, Seconds, UnixTime, sleep};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, sha256_base64url};
use crate::jose::key::{KeyError, PrivateKey, RsaBits, SelfTestError, UnsupportedRsaBits, self_test};
use crate::jose::seal::{MasterKey, SealError};
use crate::keyring::{Keyring, Snapshot, binding, trusted_time};
use crate::keys::emergency::{self, Response, Revocation, UnknownKey};
use crate::keys::plan::{self, NewGeneration, Plan, Step, plan};
use crate::keys::policy::Policy;
use crate::keys::{SigningKey, lifecycle::Keys};
use crate::store::audit::Entry;
use crate::store::nodes::Heartbeat;
use crate::store::signing_keys::{KeyChange, SealedKey};
use crate::store::{Db, StoreError};

/// Who acts when nobody does.
pub const SCHEDULE: &str = "schedule";

/// How often a change is tried when other writers are faster.
const ATTEMPTS: usize = 20;

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key pair could not be made, or its self-test failed; it was not published.
    #[error("no {alg} key pair could be made: {reason}")]
    Generation {
        /// Its algorithm.
        alg: Algorithm,
        /// What went wrong.
        reason: GenerationError,
    },
    /// The clock is not believed.
    #[error(
        "this machine's clock differs from the database's by {0}, more than half of keys.clock_skew; set the clock, then \
         try again"
    )]
    ClockInDoubt(Seconds),
    /// One more key would make the set too large for real caches.
    #[error(
        "one more {0} key does not fit into keys.max_published or keys.max_set_bytes; wait until a retired key expires \
         ('keyround keys plan' says when), or raise the limit"
    )]
    SetFull(Algorithm),
    /// The algorithm is not enabled.
    #[error("{0} is not among keys.algorithms, so it has no key to rotate")]
    NotEnabled(Algorithm),
    /// There is nothing to rotate before the first start.
    #[error("there are no keys yet; the first 'keyround serve' makes them")]
    NoKeys,
    /// No such key.
    #[error(transparent)]
    UnknownKey(#[from] UnknownKey),
}

/// Why a key pair was not made.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// OpenSSL refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The two implementations disagree.
    #[error("the self-test failed: {0}")]
    SelfTest(#[from] SelfTestError),
    /// The size is none that is made.
    #[error(transparent)]
    Size(#[from] UnsupportedRsaBits),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The thread that made it ended early.
    #[error("the thread that made it ended early")]
    Interrupted,
}

/// What changes keys: the schedule and the command line use the same.
#[derive(Clone)]
pub struct Rotator {
    /// The database.
    pub db: Db,
    /// What seals private halves.
    pub master_key: Arc<MasterKey>,
    /// The policy.
    pub policy: Arc<Policy>,
    /// The clock.
    pub clock: Clock,
}

/// What a revocation did, for the person who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The algorithm.
    pub alg: Algorithm,
    /// The kids that are revoked; none when it had been done before.
    pub revoked: Vec<Kid>,
    /// The key that signs from now on.
    pub signs_now: Option<Kid>,
    /// When it was done.
    pub at: UnixTime,
    /// The version of the keys that a node must serve to have followed.
    pub version: i64,
}

impl Rotator {
    /// Does what is due; answers with the number of steps taken.
    ///
    /// # Errors
    /// The first thing that went wrong; what is due stays due.
    pub async fn apply_due(&self, keys: &Keys, now: UnixTime, removal_agreed: bool) -> Result<usize, RotationError> {
        let due = |plan: Plan| -> Vec<Step> {
            plan.steps
                .into_iter()
                .filter(|step| removal_agreed || !matches!(step, Step::Remove(_)))
                .collect()
        };
        let steps = due(plan(keys, &self.policy, now));
        if steps.is_empty() {
            return Ok(0);
        }
        // Made before the transaction: a generation that takes long must not hold the lock, nor age its own stamp.
        let mut made = self.make_for(&steps).await?;
        let mut change = self.db.change_keys().await?;
        let now = self.checked_now().await?;
        let steps = due(plan(change.keys(), &self.policy, now));
        let mut taken = 0;
        for step in &steps {
            taken += usize::from(self.take(&mut change, step, &mut made, now).await?);
        }
        if !made.is_empty() {
            tracing::info!("another node has already rotated");
        }
        if taken > 0 {
            change.commit(Some(self.commit_deadline(now)), &self.clock).await?;
        }
        Ok(taken)
    }

    /// Inserts the next generation of an algorithm now, published ahead like any other.
    ///
    /// # Errors
    /// When the algorithm is not enabled, the set is full, or the clock or the database is not in order.
    pub async fn rotate(
        &self,
        alg: Algorithm,
        actor: &str,
        reason: &str,
    ) -> Result<(Kid, NewGeneration), RotationError> {
        if !self.policy.algorithms().contains(&alg) {
            return Err(RotationError::NotEnabled(alg));
        }
        let key = self.make(alg).await?;
        let mut change = self.db.change_keys().await?;
        let now = self.checked_now().await?;
        if change.keys().is_empty() {
            return Err(RotationError::NoKeys);
        }
        if !plan::has_room(change.keys(), &self.policy, alg, now) {
            return Err(RotationError::SetFull(alg));
        }
        let new = plan::rotate_early(change.keys(), &self.policy, alg, now);
        insert(&mut change, &new, &key, actor, reason).await?;
        change.commit(Some(self.commit_deadline(now)), &self.clock).await?;
        Ok((key.jwk.kid, new))
    }

    /// The emergency: takes a key out of trust in one transaction, and another one signs at once. Repeated, it reports
    /// what stands.
    ///
    /// # Errors
    /// When there is no such key, or the database is not in order.
    pub async fn revoke(&self, kid: &Kid, actor: &str, reason: &str) -> Result<Revoked, RotationError> {
        let mut made: Option<(Algorithm, SealedKey)> = None;
        for _ in 0..ATTEMPTS {
            match self.try_revoke(kid, actor, reason, &mut made).await {
                Err(RotationError::Store(StoreError::Conflict)) => {}
                answer => return answer,
            }
        }
        Err(StoreError::Conflict.into())
    }

    async fn try_revoke(
        &self,
        kid: &Kid,
        actor: &str,
        reason: &str,
        made: &mut Option<(Algorithm, SealedKey)>,
    ) -> Result<Revoked, RotationError> {
        // An emergency goes by the database's clock even when this machine's is wrong.
        let before = self.db.signing_keys().await?;
        let now = trusted_time(&self.db, &self.policy, &self.clock, None)
            .await?
            .checked_at();
        let foreseen = emergency::revoke(&before.keys(), &self.policy, kid, now)?;
        if let (
            Response::Revoke(Revocation {
                alg,
                replacement: Some(_),
                ..
            }),
            None,
        ) = (&foreseen, &made)
        {
            *made = Some((*alg, self.make(*alg).await?));
        }
        let mut change = self.db.change_keys().await?;
        let now = trusted_time(&self.db, &self.policy, &self.clock, None)
            .await?
            .checked_at();
        let revocation = match emergency::revoke(change.keys(), &self.policy, kid, now)? {
            Response::AlreadyRevoked { signs_now } => {
                let key = change.keys().find(kid).ok_or_else(|| UnknownKey(kid.clone()))?;
                return Ok(Revoked {
                    alg: key.alg,
                    revoked: Vec::new(),
                    signs_now,
                    at: key.revoked_at.unwrap_or(now),
                    // What stands under the lock; another node may have revoked it since the first look.
                    version: change.version() - 1,
                });
            }
            Response::Revoke(revocation) => revocation,
        };
        let signs_before = change.keys().active(revocation.alg, now).map(|key| key.kid.clone());
        for kid in &revocation.revoke {
            change.revoke(kid, now).await?;
            change.note(&once("key.revoked", kid, now, now, actor, reason)).await?;
            change
                .note(&once("key.destroyed", kid, now, now, actor, reason))
                .await?;
        }
        for kid in &revocation.destroy {
            change.destroy_private_half(kid).await?;
            change
                .note(&once("key.destroyed", kid, now, now, actor, reason))
                .await?;
        }
        let signs_now = match &revocation.replacement {
            None => signs_before,
            Some(new) => {
                // The line changed between the two looks: begin again, with a key pair of the right kind.
                let (alg, key) = made.as_ref().ok_or(StoreError::Conflict)?;
                if *alg != new.alg {
                    return Err(StoreError::Conflict.into());
                }
                insert(&mut change, new, key, actor, reason).await?;
                Some(key.jwk.kid.clone())
            }
        };
        let version = change.commit(None, &self.clock).await?;
        Ok(Revoked {
            alg: revocation.alg,
            revoked: revocation.revoke,
            signs_now,
            at: now,
            version,
        })
    }

    /// The time, or a refusal when the clock is not believed.
    async fn checked_now(&self) -> Result<UnixTime, RotationError> {
        let trusted = trusted_time(&self.db, &self.policy, &self.clock, None).await?;
        match trusted.doubt() {
            None => Ok(trusted.checked_at()),
            Some(
                crate::keys::trusted_time::Doubt::FromDatabase(difference)
                | crate::keys::trusted_time::Doubt::Jumped(difference),
            ) => Err(RotationError::ClockInDoubt(difference)),
        }
    }

    fn commit_deadline(&self, published_at: UnixTime) -> UnixTime {
        published_at + self.policy.commit_share() + self.policy.windows().clock_skew
    }

    async fn make_for(&self, steps: &[Step]) -> Result<HashMap<Algorithm, SealedKey>, RotationError> {
        let mut made = HashMap::new();
        for step in steps {
            let generations = match step {
                Step::FirstStart(generations) => generations.as_slice(),
                Step::Insert(generation) => std::slice::from_ref(generation),
                _ => continue,
            };
            for generation in generations {
                made.insert(generation.alg, self.make(generation.alg).await?);
            }
        }
        Ok(made)
    }

    /// Makes, tests and seals a key pair on a thread of its own.
    async fn make(&self, alg: Algorithm) -> Result<SealedKey, RotationError> {
        let master_key = Arc::clone(&self.master_key);
        let bits = self.policy.windows().rsa_bits;
        tokio::task::spawn_blocking(move || generate(alg, bits, &master_key))
            .await
            .unwrap_or(Err(GenerationError::Interrupted))
            .map_err(|reason| RotationError::Generation { alg, reason })
    }

    async fn take(
        &self,
        change: &mut KeyChange,
        step: &Step,
        made: &mut HashMap<Algorithm, SealedKey>,
        now: UnixTime,
    ) -> Result<bool, RotationError> {
        match step {
            Step::FirstStart(generations) => {
                // All or none: an algorithm without a key pair would miss its first start.
                for new in generations {
                    let Some(key) = made.remove(&new.alg) else {
                        return Ok(false);
                    };
                    insert(change, new, &key, SCHEDULE, "first start").await?;
                }
            }
            Step::Insert(new) => {
                let Some(key) = made.remove(&new.alg) else {
                    return Ok(false);
                };
                insert(change, new, &key, SCHEDULE, "next generation").await?;
            }
            Step::Remove(new) => {
                change.insert(new, None).await?;
                tracing::warn!(key.alg = %new.alg, "the algorithm is no longer configured; its keys are superseded");
            }
            Step::RaiseMaxTokenTtl { kid, to } => change.raise_max_token_ttl(kid, *to).await?,
            Step::DestroyPrivateHalf { kid } => {
                change.destroy_private_half(kid).await?;
                let entry = once(
                    "key.destroyed",
                    kid,
                    now,
                    now,
                    SCHEDULE,
                    "no node signs with it any more",
                );
                change.note(&entry).await?;
            }
            Step::Purge { kid } => change.purge(kid).await?,
        }
        Ok(true)
    }
}

fn generate(alg: Algorithm, rsa_bits: u32, master_key: &MasterKey) -> Result<SealedKey, GenerationError> {
    let key = PrivateKey::generate(alg, RsaBits::try_from(rsa_bits)?)?;
    let jwk = key.public_jwk()?;
    self_test(&key, &jwk.to_json())?;
    let sealed = master_key.seal(&binding(&jwk.kid, alg), &key.to_pkcs8_der()?)?;
    Ok(SealedKey { jwk, sealed })
}

async fn insert(
    change: &mut KeyChange,
    new: &NewGeneration,
    key: &SealedKey,
    actor: &str,
    reason: &str,
) -> Result<(), StoreError> {
    change.insert(new, Some(key)).await?;
    let (kid, at) = (&key.jwk.kid, new.published_at);
    change.note(&once("key.created", kid, at, at, actor, reason)).await?;
    change.note(&once("key.published", kid, at, at, actor, reason)).await?;
    tracing::info!(
        key.kid = %kid, key.alg = %new.alg, key.generation = new.generation, key.activates_at = %new.activates_at,
        reason, "a key is published"
    );
    Ok(())
}

fn once(event: &'static str, kid: &Kid, happened_at: UnixTime, noted_at: UnixTime, actor: &str, reason: &str) -> Entry {
    Entry {
        event,
        subject: kid.to_string(),
        happened_at,
        noted_at,
        actor: actor.to_owned(),
        reason: reason.to_owned(),
        once: true,
    }
}

/// How rotation has gone lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When what was due was last done.
    pub last_success: Option<UnixTime>,
    /// How often it failed since.
    pub failures: u32,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// The task of one server.
pub struct Rotation {
    rotator: Rotator,
    keyring: Arc<Keyring>,
    node_id: String,
    fingerprint: String,
    noted: Mutex<HashSet<(String, String)>>,
    progress: Mutex<Progress>,
    differing: AtomicUsize,
    followed: Notify,
}

impl Rotation {
    /// The task that keeps this keyring.
    #[must_use]
    pub fn new(rotator: Rotator, keyring: Arc<Keyring>) -> Self {
        Self {
            fingerprint: fingerprint(&rotator.policy),
            rotator,
            keyring,
            node_id: uuid::Uuid::new_v4().to_string(),
            noted: Mutex::default(),
            progress: Mutex::default(),
            differing: AtomicUsize::new(0),
            followed: Notify::new(),
        }
    }

    /// How rotation has gone lately.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the database, does what is due, and follows once more: everything that the two loops do, once.
    ///
    /// # Errors
    /// When the database does not answer, or what is due could not be done.
    pub async fn tick(&self) -> Result<(), RotationError> {
        self.follow().await?;
        self.rotate().await?;
        // Also when nothing was done here: another node may have done it in the same moment.
        self.follow().await?;
        Ok(())
    }

    /// Runs until told to stop.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let a_day_ago = self.rotator.clock.read().wall - Seconds(86_400);
        if let Err(error) = self.rotator.db.forget_nodes(a_day_ago).await {
            tracing::debug!(%error, "old nodes could not be forgotten");
        }
        tokio::join!(self.follow_for_ever(stop.clone()), self.rotate_for_ever(stop));
        if let Err(error) = self.rotator.db.leave(&self.node_id).await {
            tracing::debug!(%error, "this node could not sign off");
        }
    }

    async fn follow_for_ever(&self, mut stop: watch::Receiver<bool>) {
        // Twice within the bound, so that a change is served within it.
        let pause = self.rotator.policy.windows().replica_refresh.duration() / 2;
        while !stopped(&mut stop, pause).await {
            if let Err(error) = self.follow().await {
                tracing::warn!(%error, "the keys could not be read; the last ones are served");
            }
            self.followed.notify_one();
        }
    }

    async fn rotate_for_ever(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = match self.rotate().await {
                Ok(_) => self.until_wake(),
                Err(error) => {
                    tracing::error!(%error, "what is due for the keys could not be done; it is tried again");
                    backoff(self.progress().failures)
                }
            };
            // A look at the snapshot costs little, and a change from elsewhere may have moved what is due.
            tokio::select! {
                ended = stopped(&mut stop, pause) => if ended { return },
                () = self.followed.notified(), if self.progress().failures == 0 => {}
            }
        }
    }

    fn until_wake(&self) -> Duration {
        let snapshot = self.keyring.snapshot();
        let now = snapshot.now(self.rotator.clock.read(), &self.rotator.policy);
        let wake_at = plan(&snapshot.keys, &self.rotator.policy, now).wake_at;
        (wake_at - now).max(Seconds(1)).min(Seconds(3_600)).duration()
    }

    /// Reads the keys, notes what time has brought about, and gives a sign of life.
    async fn follow(&self) -> Result<(), StoreError> {
        let snapshot = self.keyring.refresh().await?;
        let now = snapshot.trusted().checked_at();
        if snapshot.trusted().may_plan() {
            self.note_transitions(&snapshot, now).await?;
        } else {
            tracing::error!(
                doubt = ?snapshot.trusted().doubt(),
                "the clock is not believed: no key is made, destroyed or dropped; set the clock, or restart this server \
                 if the time is right (a machine that was suspended looks the same)"
            );
        }
        self.beat(snapshot.version, now).await
    }

    /// Does what is due by the current snapshot.
    async fn rotate(&self) -> Result<usize, RotationError> {
        let snapshot = self.keyring.snapshot();
        if !snapshot.trusted().may_plan() {
            return Ok(0);
        }
        let now = snapshot.now(self.rotator.clock.read(), &self.rotator.policy);
        // During a rolling change one half of the nodes would add the algorithm that the other half removes.
        let removal_agreed = self.differing.load(Ordering::Relaxed) == 0;
        let taken = match self.rotator.apply_due(&snapshot.keys, now, removal_agreed).await {
            // Another node did it in the same moment.
            Err(RotationError::Store(StoreError::Conflict)) => Ok(0),
            answer => answer,
        };
        self.record(&taken, now);
        if taken.as_ref().is_ok_and(|&taken| taken > 0) {
            self.keyring.refresh().await?;
        }
        taken
    }

    /// How many living nodes run with another policy.
    #[must_use]
    pub fn differing_nodes(&self) -> usize {
        self.differing.load(Ordering::Relaxed)
    }

    /// Gives a sign of life, and looks at the others' .
    async fn beat(&self, version: i64, now: UnixTime) -> Result<(), StoreError> {
        let db = &self.rotator.db;
        db.beat(&Heartbeat {
            node_id: self.node_id.clone(),
            seen_at: now.0,
            version,
            policy_fingerprint: self.fingerprint.clone(),
            clock_offset: (self.rotator.clock.read().wall - now).0,
        })
        .await?;
        let living = now - self.rotator.policy.windows().snapshot_max_age;
        let nodes = db.nodes_seen_since(living).await?;
        let differing = nodes
            .iter()
            .filter(|node| node.policy_fingerprint != self.fingerprint)
            .count();
        if self.differing.swap(differing, Ordering::Relaxed) != differing {
            tracing::warn!(differing, "the number of nodes that run with another policy changed");
        }
        Ok(())
    }

    fn record(&self, taken: &Result<usize, RotationError>, now: UnixTime) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match taken {
            Ok(_) => {
                *progress = Progress {
                    last_success: Some(now),
                    ..Progress::default()
                };
            }
            Err(error) => {
                progress.failures += 1;
                progress.last_error = Some(error.to_string());
            }
        }
    }

    async fn note_transitions(&self, snapshot: &Snapshot, now: UnixTime) -> Result<(), StoreError> {
        let due: Vec<Entry> = snapshot
            .keys
            .iter()
            .flat_map(|key| transitions(&snapshot.keys, key, now))
            .collect();
        let known = |entry: &Entry| {
            self.noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&(entry.subject.clone(), entry.event.to_owned()))
        };
        if due.iter().all(known) {
            return Ok(());
        }
        let noted: HashSet<(String, String)> = self.rotator.db.noted_once().await?.into_iter().collect();
        for entry in &due {
            let name = (entry.subject.clone(), entry.event.to_owned());
            if !noted.contains(&name) && self.rotator.db.note(entry).await? {
                tracing::info!(key.kid = %entry.subject, happened_at = %entry.happened_at, "{}", entry.event);
            }
        }
        let now_noted = due.into_iter().map(|entry| (entry.subject, entry.event.to_owned()));
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = noted.into_iter().chain(now_noted).collect();
        Ok(())
    }
}

/// The transitions of a key that time has brought about by now.
fn transitions(keys: &Keys, key: &SigningKey, now: UnixTime) -> Vec<Entry> {
    let superseded_at = keys.superseded_at(key);
    let was_active = !key.is_keyless()
        && !key.was_revoked_before_activation()
        && superseded_at.is_none_or(|superseded_at| superseded_at > key.activates_at);
    let mut entries = Vec::new();
    if was_active && key.activates_at <= now {
        let at = key.activates_at;
        entries.push(once("key.activated", &key.kid, at, now, SCHEDULE, "its time came"));
    }
    if let Some(at) = superseded_at.filter(|&at| at <= now && key.revoked_at.is_none() && !key.is_keyless()) {
        entries.push(once(
            "key.retired",
            &key.kid,
            at,
            now,
            SCHEDULE,
            "a newer generation took over",
        ));
    }
    entries
}

/// A short digest of the policy, so that nodes that differ can be told apart.
#[must_use]
pub fn fingerprint(policy: &Policy) -> String {
    let mut digest = sha256_base64url(format!("{:?}", policy.windows()).as_bytes());
    digest.truncate(12);
    digest
}

/// One second, then twice as long each time, up to a minute.
fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(Duration::from_mins(1))
}

/// Waits; true when told to stop in the meantime.
async fn stopped(stop: &mut watch::Receiver<bool>, pause: Duration) -> bool {
    tokio::select! {
        () = sleep(pause) => false,
        _ = stop.wait_for(|&stop| stop) => true,
    }
}
