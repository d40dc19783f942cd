//! Which time to believe: the machine's wall clock can be wrong, and a key must not be made, destroyed or dropped because
//! of it.

use std::time::Duration;

use crate::clock::{Reading, Seconds, UnixTime};

/// What a wall clock is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The clock of a database server, which all nodes share, read just now.
    Database(UnixTime),
    /// No other clock (an embedded database): the last good wall time, carried on by monotonic time.
    Monotonic,
}

/// Why the wall clock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It differs from the database's by this much.
    FromDatabase(Seconds),
    /// It jumped by this much since the last good look.
    Jumped(Seconds),
}

/// The time at one moment, good or doubtful, from which later moments are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedTime {
    time: UnixTime,
    monotonic: Duration,
    doubt: Option<Doubt>,
}

impl TrustedTime {
    /// Holds a reading against its reference; half of `clock_skew` is the tolerance. Without an earlier look and without
    /// a database's clock there is nothing to compare, and the wall is believed.
    #[must_use]
    pub fn check(previous: Option<&Self>, reading: Reading, reference: Reference, clock_skew: Seconds) -> Self {
        let expected = match reference {
            Reference::Database(time) => Some(time),
            Reference::Monotonic => previous.map(|previous| previous.carried_to(reading)),
        };
        let difference = expected.map_or(Seconds::ZERO, |expected| reading.wall - expected);
        let doubt = (difference.abs() > half(clock_skew)).then_some(match reference {
            Reference::Database(_) => Doubt::FromDatabase(difference),
            Reference::Monotonic => Doubt::Jumped(difference),
        });
        Self {
            time: match (doubt, expected) {
                (Some(_), Some(expected)) => expected,
                _ => reading.wall,
            },
            monotonic: reading.monotonic,
            doubt,
        }
    }

    /// The time to go by at a later reading: the wall, unless it jumped since this check.
    #[must_use]
    pub fn now(&self, reading: Reading, clock_skew: Seconds) -> UnixTime {
        let expected = self.carried_to(reading);
        if self.doubt.is_none() && (reading.wall - expected).abs() <= half(clock_skew) {
            reading.wall
        } else {
            expected
        }
    }

    /// The time at the check itself.
    #[must_use]
    pub const fn checked_at(&self) -> UnixTime {
        self.time
    }

    /// Why the wall is not believed; none when all is well.
    #[must_use]
    pub const fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Whether this node may make, destroy and purge keys, and drop one from its set.
    #[must_use]
    pub const fn may_plan(&self) -> bool {
        self.doubt.is_none()
    }

    /// Whether this node may sign: with a jumped clock it goes by the last good time, but a node that disagrees with the
    /// database's clock disagrees with its fellows.
    #[must_use]
    pub const fn may_sign(&self) -> bool {
        !matches!(self.doubt, Some(Doubt::FromDatabase(_)))
    }

    fn carried_to(&self, reading: Reading) -> UnixTime {
        let passed = reading.monotonic.saturating_sub(self.monotonic).as_secs();
        self.time + Seconds(i64::try_from(passed).unwrap_or(i64::MAX))
    }
}

const fn half(clock_skew: Seconds) -> Seconds {
    Seconds(clock_skew.0 / 2)
}
