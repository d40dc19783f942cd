//! What the log says while the database is away: one line when it goes, a sum every half minute, one line when it is back. A line
//! for each request that fails would be fifty a second, and would say no more.

use std::error::Error;
use std::fmt::Display;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

use super::StoreError;

/// How often the requests that failed are summed up.
const SUM_EVERY: Duration = Duration::from_secs(30);

static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::system);
static OUTAGE: Mutex<Option<Outage>> = Mutex::new(None);

struct Outage {
    since: Duration,
    summed_at: Duration,
    failures: u64,
}

/// Reports a failure: in a line of its own, unless the database is away.
pub fn report(what: &'static str, error: &(dyn Error + 'static)) {
    let mut cause = Some(error);
    while cause.is_some_and(|cause| !is_of_outage(cause)) {
        cause = cause.and_then(Error::source);
    }
    if cause.is_some() {
        failed(what, &error);
    } else {
        tracing::error!(%error, "{what}");
    }
}

fn is_of_outage(error: &(dyn Error + 'static)) -> bool {
    error.is::<Arc<sqlx::Error>>()
        || error.is::<sqlx::Error>()
        || matches!(
            error.downcast_ref::<StoreError>(),
            Some(
                StoreError::Unavailable(_)
                    | StoreError::Full(_)
                    | StoreError::NoPrimary(_)
                    | StoreError::SlowLook { .. }
            )
        )
}

/// Reports that something failed because the database does not answer, or because it has not answered for too long.
pub fn failed(what: &'static str, error: &dyn Display) {
    let now = CLOCK.read().monotonic;
    let mut outage = OUTAGE.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *outage {
        None => {
            tracing::error!(%error, "{what}; more failures of this kind are summed up until the database answers again");
            *outage = Some(Outage {
                since: now,
                summed_at: now,
                failures: 1,
            });
        }
        Some(outage) => {
            outage.failures += 1;
            if now.saturating_sub(outage.summed_at) >= SUM_EVERY {
                outage.summed_at = now;
                let seconds = now.saturating_sub(outage.since).as_secs();
                tracing::warn!(failures = outage.failures, seconds, %error, "the database is still away");
            }
        }
    }
}

/// Reports that the database answers a look.
pub fn answered() {
    let ended = OUTAGE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(outage) = ended {
        let seconds = CLOCK.read().monotonic.saturating_sub(outage.since).as_secs();
        tracing::warn!(failures = outage.failures, seconds, "the database answers again");
    }
}
