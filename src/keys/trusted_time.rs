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
        // Time is carried in whole seconds. What is left over counts at the next look, or a clock in doubt would fall
        // behind with every look until it agreed with the wall that had jumped back.
        let left_over = match (reference, previous) {
            (Reference::Monotonic, Some(previous)) => {
                reading.monotonic.saturating_sub(previous.monotonic).subsec_nanos()
            }
            _ => 0,
        };
        let difference = expected.map_or(Seconds::ZERO, |expected| reading.wall - expected);
        let doubt = (difference.abs() > half(clock_skew)).then_some(match reference {
            Reference::Database(_) => Doubt::FromDatabase(difference),
            Reference::Monotonic => Doubt::Jumped(difference),
        });
        let (time, left_over) = match (doubt, expected) {
            (Some(_), Some(expected)) => (expected, left_over),
            _ => (reading.wall, 0),
        };
        Self {
            time,
            monotonic: reading.monotonic.saturating_sub(Duration::from_nanos(left_over.into())),
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

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Seconds = Seconds(60);

    fn reading(wall: i64, milliseconds: u64) -> Reading {
        Reading {
            wall: UnixTime(wall),
            monotonic: Duration::from_millis(milliseconds),
        }
    }

    #[test]
    fn half_of_the_skew_is_tolerated() {
        for (wall, good) in [(1_030, true), (1_031, false), (970, true), (969, false)] {
            let checked = TrustedTime::check(None, reading(wall, 0), Reference::Database(UnixTime(1_000)), SKEW);
            assert_eq!(checked.may_plan(), good, "{wall}");
            assert_eq!(checked.may_sign(), good, "{wall}");
            assert_eq!(checked.checked_at(), UnixTime(if good { wall } else { 1_000 }));
        }
    }

    #[test]
    fn a_jump_beside_a_file_stops_planning_and_not_signing() {
        let first = TrustedTime::check(None, reading(1_000, 0), Reference::Monotonic, SKEW);
        assert_eq!(first.now(reading(9_000, 5_000), SKEW), UnixTime(1_005));
        let jumped = TrustedTime::check(Some(&first), reading(9_000, 10_000), Reference::Monotonic, SKEW);
        assert_eq!(jumped.doubt(), Some(Doubt::Jumped(Seconds(7_990))));
        assert!(jumped.may_sign() && !jumped.may_plan());
        assert_eq!(jumped.checked_at(), UnixTime(1_010));
        let returned = TrustedTime::check(Some(&jumped), reading(1_025, 20_000), Reference::Monotonic, SKEW);
        assert_eq!(returned.doubt(), None);
        assert_eq!(returned.checked_at(), UnixTime(1_025));
    }

    #[test]
    fn a_clock_in_doubt_does_not_fall_behind_with_every_look() {
        let mut trusted = TrustedTime::check(None, reading(1_000, 0), Reference::Monotonic, SKEW);
        for look in 1..=100 {
            // Every 1.9 seconds, with a wall that lies 50 seconds back.
            let wall = 950 + i64::try_from(look * 1_900 / 1_000).unwrap();
            trusted = TrustedTime::check(Some(&trusted), reading(wall, look * 1_900), Reference::Monotonic, SKEW);
            assert!(trusted.doubt().is_some(), "look {look}");
        }
        assert_eq!(trusted.checked_at(), UnixTime(1_190));
    }
}
