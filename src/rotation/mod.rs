//! The scheduled task: load, plan, apply, sleep until the plan's `wake_at` or until told.
//!
//! Two loops, so that nothing waits for key generation: one follows the database and publishes, the other makes keys.

mod error;
mod import;
mod removal;
mod restore;
mod revocation;
pub mod rewrap;
mod rotator;
pub mod sealing;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::{Seconds, UnixTime, sleep};
use crate::events::{Entry, Event};
use crate::keyring::{Keyring, Snapshot};
use crate::keys::SigningKey;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::plan;
use crate::keys::policy::Policy;
use crate::keys::state::State;
use crate::keys::trusted_time::patience;
use crate::store::StoreError;
use crate::store::nodes::FORGOTTEN_AFTER;
use crate::store::outage;
use crate::store::tenants::TenantChange;
use crate::supervision::{Pulse, Tasks};

pub use error::{GenerationError, RotationError};
pub use import::ImportedKey;
pub use removal::{CannotKeep, CannotRemove, Kept, Removed};
pub use restore::{CannotRestore, Restored, try_restore};
pub use revocation::Revoked;
use rotator::once;
pub use rotator::{MAX_WAITING, Rotator, refuse_rotation};

/// Who acts when nobody does.
pub const SCHEDULE: &str = "schedule";

/// How long what is due may take before it is given up and tried again: longer than the largest key takes to make. Without an
/// end, a connection that died without a word would be waited for, and this node would never rotate again.
const PATIENCE: Seconds = Seconds(30);

/// The longest pause between two looks at what is due.
const LONGEST_PAUSE: Seconds = Seconds(60);

/// What a turn of a loop may take beside its pauses and time-outs before `/livez` reports it: a busy machine is no reason for a
/// restart.
const SLACK: Duration = Duration::from_secs(30);
/// How soon the next look follows one that failed.
const PAUSE_WHILE_AWAY: Duration = Duration::from_secs(1);

/// How many denials one statement forgets, and how many statements one look takes for it.
const DENIALS_AT_ONCE: u32 = 1_000;
const BATCHES_OF_DENIALS: usize = 10;

/// How often a server that stops tries to take its row out of the database, and the pause between two tries.
const LEAVING_ATTEMPTS: u32 = 3;
const LEAVING_PAUSE: Duration = Duration::from_millis(500);

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
    noted: Mutex<HashSet<(String, Event)>>,
    progress: Mutex<Progress>,
    differing: AtomicUsize,
    doubtful: AtomicBool,
    followed: Notify,
    /// Since a look failed, until one succeeds.
    away: AtomicBool,
    /// Why the last look at the database failed.
    failed_look: Mutex<Option<String>>,
    returned: Notify,
    restored: AtomicU64,
}

impl Rotation {
    /// The task that keeps this keyring.
    #[must_use]
    pub fn new(rotator: Rotator, keyring: Arc<Keyring>) -> Self {
        Self {
            rotator,
            keyring,
            noted: Mutex::default(),
            progress: Mutex::default(),
            differing: AtomicUsize::new(0),
            doubtful: AtomicBool::new(false),
            followed: Notify::new(),
            away: AtomicBool::new(false),
            failed_look: Mutex::default(),
            returned: Notify::new(),
            restored: AtomicU64::new(0),
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
    pub async fn run(self: Arc<Self>, tasks: Tasks, stop: watch::Receiver<bool>) {
        let (now, day) = (self.keyring.snapshot().trusted().reached(), FORGOTTEN_AFTER);
        if let Err(error) = self.rotator.db.forget_nodes(now - day, now + day).await {
            tracing::debug!(%error, "old nodes could not be forgotten");
        }
        let windows = self.rotator.policy.windows();
        let longest_follow = (windows.replica_refresh + windows.snapshot_max_age).duration() + SLACK;
        let longest_rotate = (LONGEST_PAUSE + PATIENCE).duration() + SLACK;
        let follow = |pulse: Arc<Pulse>| {
            let (this, stop) = (Arc::clone(&self), stop.clone());
            async move { this.follow_until(&pulse, stop).await }
        };
        let rotate = |pulse: Arc<Pulse>| {
            let (this, stop) = (Arc::clone(&self), stop.clone());
            async move { this.rotate_until(&pulse, stop).await }
        };
        tokio::join!(
            tasks.clone().supervise("follow", longest_follow, stop.clone(), follow),
            tasks.supervise("rotate", longest_rotate, stop.clone(), rotate),
        );
        if let Err(error) = self.keyring.write_uses_down().await {
            tracing::debug!(%error, "the last uses of keys could not be written down");
        }
        self.leave().await;
    }

    /// Takes this node's row away, so that nobody waits for it.
    async fn leave(&self) {
        for attempt in 1..=LEAVING_ATTEMPTS {
            match self.rotator.db.leave(self.keyring.node_id()).await {
                Ok(()) => return,
                Err(error) if attempt == LEAVING_ATTEMPTS => {
                    tracing::warn!(%error, "this node could not sign off: for a while commands take it for one that runs");
                }
                Err(_) => sleep(LEAVING_PAUSE).await,
            }
        }
    }

    async fn follow_until(&self, pulse: &Pulse, mut stop: watch::Receiver<bool>) {
        // Twice within the bound, so that a change is served within it.
        let pause = self.rotator.policy.windows().replica_refresh.duration() / 2;
        let patience = self.rotator.policy.windows().snapshot_max_age.duration() / 2;
        let mut next = pause;
        while !stopped(&mut stop, next).await {
            next = match self.follow_unless_silent(patience, pulse).await {
                Ok(()) => {
                    self.note_return();
                    pause
                }
                Err(error) => {
                    self.note_failed_look(&error).await;
                    pause.min(PAUSE_WHILE_AWAY)
                }
            };
            self.followed.notify_one();
            pulse.beat();
        }
    }

    /// A database that went silent must not hold the next look, which may find it back. One that has much to read goes on answering.
    async fn follow_unless_silent(&self, patience: Duration, pulse: &Pulse) -> Result<(), StoreError> {
        let revocations = self.keyring.revocations();
        let mut read = revocations.progress();
        let mut follow = std::pin::pin!(self.follow());
        loop {
            tokio::select! {
                followed = &mut follow => return followed,
                () = sleep(patience) => {
                    if revocations.progress() == read {
                        let silent = StoreError::NoPrimary("the database went silent".to_owned());
                        self.note_look(Some(&silent));
                        return Err(silent);
                    }
                    read = revocations.progress();
                    pulse.beat();
                }
            }
        }
    }

    /// Why the last look at the database failed; none when it succeeded.
    #[must_use]
    pub fn failed_look(&self) -> Option<String> {
        self.failed_look.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_look(&self, error: Option<&StoreError>) {
        *self.failed_look.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
    }

    fn note_return(&self) {
        outage::answered();
        if self.away.swap(false, Ordering::Relaxed) {
            self.returned.notify_one();
        }
    }

    async fn note_failed_look(&self, error: &StoreError) {
        let is_first = !self.away.swap(true, Ordering::Relaxed);
        // The error of a pool says nothing about the servers behind it.
        match self.rotator.db.trouble().await {
            Some(servers) if is_first => {
                tracing::error!(%servers, "no database server accepts writes; the last keys are served");
            }
            _ => {}
        }
        outage::report("the keys could not be read; the last ones are served", error);
    }

    async fn rotate_until(&self, pulse: &Pulse, mut stop: watch::Receiver<bool>) {
        loop {
            let done = tokio::select! {
                done = self.rotate() => done,
                () = sleep(PATIENCE.duration()) => self.given_up(),
            };
            let pause = match done {
                Ok(_) => self.until_wake(),
                Err(error) => {
                    outage::report("what is due for the keys could not be done; it is tried again", &error);
                    backoff(self.progress().failures)
                }
            };
            pulse.beat();
            // A look at the snapshot costs little, and a change from elsewhere may have moved what is due.
            tokio::select! {
                ended = stopped(&mut stop, pause) => if ended { return },
                () = self.followed.notified(), if self.progress().failures == 0 => {}
                // What failed while the database was away is done as soon as it is back.
                () = self.returned.notified() => {}
            }
        }
    }

    fn until_wake(&self) -> Duration {
        let snapshot = self.keyring.snapshot();
        let now = snapshot.keys_at(self.rotator.clock.read(), &self.rotator.policy);
        let wake_at = plan(&snapshot.keys, &self.rotator.policy, now).wake_at;
        (wake_at - now).max(Seconds(1)).min(LONGEST_PAUSE).duration()
    }

    /// Gives a sign of life, reads the keys and notes what time has brought about.
    async fn follow(&self) -> Result<(), StoreError> {
        let refreshed = self.keyring.refresh().await;
        self.note_look(refreshed.as_ref().err());
        let snapshot = refreshed?;
        let reached = snapshot.trusted().reached();
        let doubtful = !snapshot.trusted().may_plan();
        if doubtful != self.doubtful.swap(doubtful, Ordering::Relaxed) {
            log_doubt(&snapshot);
        }
        if !doubtful {
            self.note_transitions(&snapshot, reached).await?;
        }
        self.write_lost_again(&snapshot, snapshot.trusted().checked_at())
            .await?;
        self.keyring.write_uses_down().await?;
        self.compare_policies(snapshot.trusted().checked_at()).await?;
        // What cannot be deleted must not hold up the rest. A clock in doubt calls no node gone.
        let gone = if doubtful {
            UnixTime(0)
        } else {
            reached - FORGOTTEN_AFTER
        };
        if let Err(error) = self.rotator.db.forget_revocation_changes(gone).await {
            tracing::debug!(%error, "changes that every node has read could not be forgotten");
        }
        if doubtful {
            return Ok(());
        }
        self.forget(&snapshot, reached).await
    }

    /// Forgets what no request can present any more. What a clock in doubt calls old is not forgotten, nor what a leap made old.
    async fn forget(&self, snapshot: &Snapshot, reached: UnixTime) -> Result<(), StoreError> {
        let db = &self.rotator.db;
        if snapshot.keys.is_keeping(&self.rotator.policy, reached) {
            return Ok(());
        }
        snapshot.revocations().forget_some(reached);
        for _ in 0..BATCHES_OF_DENIALS {
            let pruned = match db.prune_denied_tokens(reached, DENIALS_AT_ONCE).await {
                // Another node forgets the same ones.
                Err(StoreError::Conflict) => 0,
                answer => answer?,
            };
            if pruned < u64::from(DENIALS_AT_ONCE) {
                break;
            }
        }
        // Other nodes' clocks may be behind by S.
        let skew = self.rotator.policy.windows().clock_skew;
        db.forget_assertions(reached - skew).await?;
        db.prune_federated_logins(reached - skew).await?;
        Ok(())
    }

    /// Confirms a clock that is ahead and has run evenly for long enough.
    async fn confirm_steady_clock(&self, snapshot: &Snapshot) -> Result<usize, RotationError> {
        let patience = patience(&snapshot.keys, &self.rotator.policy);
        if snapshot.trusted().is_steady_for(self.rotator.clock.read(), patience) {
            let reason = format!("it has run evenly for {patience}");
            self.rotator
                .confirm_clock(snapshot.trusted(), SCHEDULE, &reason)
                .await?;
            self.keyring.refresh().await?;
        }
        Ok(0)
    }

    /// Writes again what the database lacks although this node knew it, and reports it.
    async fn write_lost_again(&self, snapshot: &Snapshot, now: UnixTime) -> Result<(), StoreError> {
        let lost = &snapshot.lost;
        if lost.count() == 0 {
            return Ok(());
        }
        tracing::error!(
            revocations = lost.revocations,
            disabled_tenants = lost.tenants.len(),
            token_lifetimes = lost.lifetimes.len(),
            "the database has lost what this node knew, as after a failover to a standby without the last seconds; it stays in force \
             and is written again, but what no node knew is gone: repeat the last changes"
        );
        let actor = format!("node {}", self.keyring.node_id());
        let entry = |event, subject: &str| Entry::new(event, subject, now, actor.as_str(), "the database had lost it");
        let db = &self.rotator.db;
        let wrote = |is_new: bool| {
            self.restored.fetch_add(is_new.into(), Ordering::Relaxed);
        };
        for (jti, until) in &lost.denied {
            wrote(db.deny_token(jti, *until, &entry(Event::TokenDenied, jti)).await?);
            snapshot.revocations().tokens.restored(jti);
        }
        for (sid, until) in &lost.ended {
            wrote(
                db.end_lost_session(sid, *until, &entry(Event::SessionEnded, sid))
                    .await?,
            );
            snapshot.revocations().sessions.restored(sid);
        }
        if !lost.lifetimes.is_empty() {
            let mut change = db.change_keys().await?;
            for (kid, lifetime) in &lost.lifetimes {
                change.raise_max_token_ttl(kid, *lifetime).await?;
                wrote(true);
            }
            change.commit(None, now).await?;
        }
        for tenant in &lost.tenants {
            if let Ok(id) = tenant.parse() {
                let entry = entry(Event::TenantDisabled, tenant);
                let changed = db.change_tenant(&id, TenantChange::Disable, &entry).await?;
                wrote(changed.is_some());
            }
        }
        Ok(())
    }

    /// How many records were written again that the database had lost.
    #[must_use]
    pub fn restored_records(&self) -> u64 {
        self.restored.load(Ordering::Relaxed)
    }

    /// Does what is due by the current snapshot.
    async fn rotate(&self) -> Result<usize, RotationError> {
        let snapshot = self.keyring.snapshot();
        // Rotation does not wait for it: what this node distrusts, it neither publishes nor signs with meanwhile. Nor does it wait for
        // the end of a doubt: an emergency goes by the time that keys go by.
        let written = self.rotator.revoke_again(&snapshot.distrusted).await;
        let snapshot = match &written {
            Ok(kids) if !kids.is_empty() => self.keyring.refresh().await?,
            _ => snapshot,
        };
        let now = snapshot.keys_at(self.rotator.clock.read(), &self.rotator.policy);
        if !snapshot.trusted().may_plan() {
            let confirmed = self.confirm_steady_clock(&snapshot).await;
            let taken = confirmed.and_then(|taken| written.map(|kids| taken + kids.len()));
            // While the clock is in doubt nothing is due but this: only a failure is news, and the end of one.
            if taken.is_err() || self.progress().failures > 0 {
                self.record(&taken, now);
            }
            return taken;
        }
        let taken = match self.rotator.apply_due(&snapshot.keys, snapshot.trusted()).await {
            // Another node did it in the same moment.
            Err(RotationError::Store(StoreError::Conflict)) => Ok(0),
            answer => answer,
        };
        let taken = taken.and_then(|taken| written.map(|kids| taken + kids.len()));
        self.record(&taken, now);
        if taken.as_ref().is_ok_and(|&taken| taken > 0) {
            self.keyring.refresh().await?;
            tracing::debug!("what was done for the keys is served");
        }
        taken
    }

    fn given_up(&self) -> Result<usize, RotationError> {
        let given_up = Err(RotationError::Silent(PATIENCE));
        self.record(&given_up, self.rotator.clock.read().wall);
        given_up
    }

    /// How many living nodes run with another policy.
    #[must_use]
    pub fn differing_nodes(&self) -> usize {
        self.differing.load(Ordering::Relaxed)
    }

    /// Counts the living nodes that run with another policy.
    async fn compare_policies(&self, now: UnixTime) -> Result<(), StoreError> {
        let windows = self.rotator.policy.windows();
        let memory = windows.snapshot_max_age + windows.clock_skew;
        let nodes = self.rotator.db.living_nodes(now, memory).await?;
        let fingerprint = self.rotator.policy.fingerprint();
        let differing = nodes
            .iter()
            .filter(|node| node.policy_fingerprint != fingerprint)
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
            .chain(expiries(&snapshot.keys, &self.rotator.policy, now))
            .collect();
        let name = |entry: &Entry| (entry.subject.clone(), entry.event);
        let is_noted = |entry: &&Entry| {
            let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.contains(&name(entry))
        };
        // Whether another node was faster, or this one before its restart, the table itself knows: it is long, and never read.
        for entry in due.iter().filter(|entry| !is_noted(entry)) {
            if self.rotator.db.note(entry).await? {
                tracing::info!(key.kid = %entry.subject, happened_at = %entry.happened_at, "{}", entry.event);
            }
        }
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = due.iter().map(name).collect();
        Ok(())
    }
}

fn log_doubt(snapshot: &Snapshot) {
    match snapshot.trusted().doubt() {
        None => tracing::info!("the clock is no longer in doubt"),
        Some(doubt) if doubt.is_harmless() => tracing::warn!(%doubt, "the clock is not confirmed yet"),
        Some(doubt) => tracing::error!(%doubt, "the clock is in doubt: the schedule makes, destroys and drops no key"),
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
        entries.push(once(Event::KeyActivated, &key.kid, at, now, SCHEDULE, "its time came"));
    }
    if let Some(at) = superseded_at.filter(|&at| at <= now && key.revoked_at.is_none() && !key.is_keyless()) {
        entries.push(once(
            Event::KeyRetired,
            &key.kid,
            at,
            now,
            SCHEDULE,
            "a newer generation took over",
        ));
    }
    entries
}

/// The keys to verify with whose end has come.
fn expiries<'a>(keys: &'a Keys, policy: &'a Policy, now: UnixTime) -> impl Iterator<Item = Entry> + 'a {
    keys.verifying()
        .iter()
        .filter(move |key| key.state(policy, now) == State::Expired)
        .map(move |key| {
            let at = key.leaves_at(policy);
            once(
                Event::KeyExpired,
                &key.jwk.kid,
                at,
                now,
                SCHEDULE,
                "its stated end came",
            )
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_stays_there() {
        let pauses = [1, 2, 3, 4, 5, 6, 7, 8, 100, u32::MAX].map(|failures| backoff(failures).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }
}
