//! The scheduled task: load, plan, apply, sleep until the plan's `wake_at` or until told.
//!
//! Two loops, so that nothing waits for key generation: one follows the database and publishes, the other makes keys.

mod error;
mod following;
mod import;
mod removal;
mod restore;
mod revocation;
pub mod rewrap;
mod rotator;
pub mod sealing;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::{Seconds, UnixTime, sleep};
use crate::events::Event;
use crate::keyring::{Keyring, Snapshot};
use crate::keys::plan::plan;
use crate::keys::trusted_time::patience;
use crate::store::{StoreError, outage};
use crate::supervision::{Pulse, Tasks};
use crate::tasks::heartbeat;

pub use error::{GenerationError, RotationError};
pub use import::ImportedKey;
pub use removal::{CannotKeep, CannotRemove, KeptAlgorithm, Removed};
pub use restore::{CannotRestore, Restored, try_restore};
pub use revocation::Revoked;
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
        heartbeat::forget_gone_nodes(&self.rotator.db, self.keyring.snapshot().trusted().reached()).await;
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
        heartbeat::leave(&self.rotator.db, self.keyring.node_id()).await;
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
