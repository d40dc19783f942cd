//! What has expired is forgotten, a little at a time.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::{Clock, Seconds, UnixTime, sleep};
use crate::keyring::{Keyring, Snapshot};
use crate::keys::policy::Policy;
use crate::store::nodes::FORGOTTEN_AFTER;
use crate::store::{Db, StoreError};
use crate::supervision::{Pulse, Tasks};
use crate::telemetry::SessionMetrics;

/// How many expired sessions one statement deletes: so few that no refresh waits for it.
const PRUNED_AT_ONCE: u32 = 20;

/// How often the task looks for expired sessions.
const PRUNE_PERIOD: Seconds = Seconds(60);

/// A database that went silent must not hold the task.
const PRUNE_TIMEOUT: Seconds = Seconds(300);

/// How many denials one statement forgets, and how many statements one look takes for it.
const DENIALS_AT_ONCE: u32 = 1_000;
const BATCHES_OF_DENIALS: usize = 10;

/// Forgets the changes of revocations that every node has read. `reached` is absent while the clock is in doubt: then no node counts as
/// gone. A failure holds up nothing else.
pub async fn forget_read_changes(db: &Db, reached: Option<UnixTime>) {
    let gone = reached.map_or(UnixTime(0), |reached| reached - FORGOTTEN_AFTER);
    if let Err(error) = db.forget_revocation_changes(gone).await {
        tracing::debug!(%error, "changes that every node has read could not be forgotten");
    }
}

/// Forgets what no request can present any more. What a step of the clock made old is not forgotten.
///
/// # Errors
/// If the database does not answer.
pub async fn forget_expired(
    db: &Db,
    snapshot: &Snapshot,
    policy: &Policy,
    reached: UnixTime,
) -> Result<(), StoreError> {
    if snapshot.keys.is_keeping(policy, reached) {
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
    let skew = policy.windows().clock_skew;
    db.forget_assertions(reached - skew).await?;
    db.prune_federated_logins(reached - skew).await?;
    Ok(())
}

/// What forgets expired sessions.
pub struct Housekeeping {
    /// The database.
    pub db: Db,
    /// The keys, by whose time sessions expire.
    pub keyring: Arc<Keyring>,
    /// The clock.
    pub clock: Clock,
    /// What is counted.
    pub metrics: SessionMetrics,
}

impl Housekeeping {
    /// Forgets the sessions that have expired, a few at a time, and the limits that nobody has used up anything of; answers with the
    /// number of sessions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        // No access token outlives its session; a clock that is ahead of another must not make it forgotten before that.
        let skew = self.keyring.policy().windows().clock_skew;
        let snapshot = self.keyring.snapshot();
        let expired = snapshot.keys_at(self.clock.read(), self.keyring.policy()) - skew * 2;
        let pruned = prune(&self.db, expired, &self.clock).await?;
        prune_limits(&self.db, expired, &self.clock).await?;
        self.metrics.pruned(pruned);
        Ok(pruned)
    }

    /// Forgets expired sessions until told to stop.
    pub async fn run(self, tasks: Tasks, stop: watch::Receiver<bool>) {
        let this = Arc::new(self);
        let prune = |pulse: Arc<Pulse>| {
            let (this, stop) = (Arc::clone(&this), stop.clone());
            async move { this.prune_until(&pulse, stop).await }
        };
        let longest = (PRUNE_TIMEOUT + PRUNE_PERIOD * 2).duration();
        tasks.supervise("sessions", longest, stop.clone(), prune).await;
    }

    async fn prune_until(&self, pulse: &Pulse, mut stop: watch::Receiver<bool>) {
        loop {
            if self.keyring.snapshot().trusted().may_plan() {
                tokio::select! {
                    pruned = self.prune() => if let Err(error) = pruned {
                        tracing::warn!(%error, "expired sessions could not be forgotten; it is tried again");
                    },
                    () = sleep(PRUNE_TIMEOUT.duration()) => {
                        tracing::warn!("not all expired sessions are forgotten yet; the next turn goes on");
                    }
                    _ = stop.wait_for(|stopped| *stopped) => return,
                }
            }
            pulse.beat();
            tokio::select! {
                _ = stop.wait_for(|stopped| *stopped) => return,
                () = sleep(PRUNE_PERIOD.duration()) => {}
            }
        }
    }
}

/// Forgets the sessions that expired at this time or earlier, a few at a time, with pauses as long as the work, so that whoever
/// refreshes meanwhile finds the database free; answers with their number.
///
/// # Errors
/// When the database does not answer.
pub async fn prune(db: &Db, expired: UnixTime, clock: &Clock) -> Result<u64, StoreError> {
    let grants = in_batches(clock, || db.prune_sessions(expired, PRUNED_AT_ONCE)).await?;
    in_batches(clock, || db.prune_login_sessions(expired, PRUNED_AT_ONCE)).await?;
    in_batches(clock, || db.prune_codes(expired, PRUNED_AT_ONCE)).await?;
    Ok(grants)
}

/// Forgets the limits that nobody has used up anything of since this time, in the same way; answers with their number.
///
/// # Errors
/// When the database does not answer.
pub async fn prune_limits(db: &Db, drained: UnixTime, clock: &Clock) -> Result<u64, StoreError> {
    in_batches(clock, || db.prune_limits(drained, PRUNED_AT_ONCE)).await
}

/// Deletes the records of the audit log that were written down before this time, in the same way; answers with their number.
///
/// # Errors
/// When the database does not answer.
pub async fn prune_audit(db: &Db, before: UnixTime, clock: &Clock) -> Result<u64, StoreError> {
    in_batches(clock, || db.prune_audit(before, PRUNED_AT_ONCE)).await
}

async fn in_batches<F>(clock: &Clock, mut prune: impl FnMut() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut pruned = 0;
    loop {
        let before = clock.read().monotonic;
        let batch = prune().await?;
        pruned += batch;
        if batch < u64::from(PRUNED_AT_ONCE) {
            return Ok(pruned);
        }
        sleep(clock.read().monotonic.saturating_sub(before)).await;
    }
}
