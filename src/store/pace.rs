//! How fast the database answers a look, so that a look that takes too long says whether every statement is slow or one was kept waiting.

use std::sync::OnceLock;
use std::time::Duration;

use crate::clock::uptime;

use super::StoreError;

/// How many round trips of 50 ms a look has time for, besides those that read what was revoked. On a new connection it takes the most,
/// since each statement is prepared first; a test sees that it holds 50 ms there.
pub const ROUND_TRIPS: u32 = 28;

/// The time that the first statement of a look took.
#[derive(Default)]
pub(super) struct Pace {
    asked: OnceLock<Duration>,
    took: OnceLock<Duration>,
}

impl Pace {
    /// The first statement is sent.
    pub(super) fn asks(&self) {
        self.asked.get_or_init(uptime);
    }

    /// It is answered.
    pub(super) fn is_answered(&self) {
        let now = uptime();
        let asked = self.asked.get().copied().unwrap_or(now);
        self.took.get_or_init(|| now.saturating_sub(asked));
    }

    /// The same error, or that every statement is too slow.
    pub(super) fn explained(&self, error: StoreError, limit: Option<Duration>) -> StoreError {
        let is_too_late = matches!(&error, StoreError::Unavailable(error)
            if matches!(&**error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut));
        let (Some(&took), Some(limit), true) = (self.took.get(), limit, is_too_late) else {
            return error;
        };
        let most = limit / ROUND_TRIPS;
        if took < most {
            return error;
        }
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        StoreError::SlowLook {
            took: milliseconds(took),
            limit: milliseconds(limit),
            most: milliseconds(most),
        }
    }
}
