//! Which time a node goes by: a wall clock can be wrong, and no key is made, destroyed or dropped because of it.
//!
//! A node compares its wall clock with the database's, and the later of both looks with the time that it has *reached*: the
//! time of its previous look plus what its monotonic clock counted since. At a start the database's record of the time that
//! some node had reached is in the place of the previous look.
//!
//! Keys, and whatever is forgotten, go by the time that was reached. While the clock is in doubt this time runs on by the
//! monotonic clock, so a wrong clock changes the state of no key. The doubt ends when the clock agrees again, when another node
//! that is not in doubt agrees with the clock, or when the step is confirmed: by a person, or by the schedule if the clock is
//! ahead and has run evenly for as long as the longest token lives. A confirmed step moves the times of the keys by its length,
//! so the step itself makes no key sign and none leave.

use std::fmt;
use std::time::Duration;

use crate::clock::{Reading, Seconds, UnixTime};

use super::kept::Kept;
use super::lifecycle::Keys;
use super::policy::Policy;

/// What a wall clock is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The clock of a database server, which all nodes share, read just now.
    Database(UnixTime),
    /// No other clock: the database is a file.
    Monotonic,
}

impl Reference {
    const fn time(self, reading: Reading) -> UnixTime {
        match self {
            Self::Database(time) => time,
            Self::Monotonic => reading.wall,
        }
    }
}

/// What the database says about time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockRecord {
    /// The newest time that any node has reached; none in a new database.
    pub reached: Option<UnixTime>,
    /// The newest time that any node was sure of.
    pub confirmed: UnixTime,
    /// The time by which a node in doubt began to sign; none once a node that is sure has seen it and keeps its keys.
    pub doubted: Option<UnixTime>,
    /// The sum of the steps that were confirmed: the times in the rows are in this calendar.
    pub stepped: Seconds,
    /// When a backup was restored into the database, which holds no session from before.
    pub restored: Option<UnixTime>,
}

/// What a person runs to end a doubt; it works as it is written.
pub const CONFIRM_COMMAND: &str = "keyround clock confirm --reason TEXT --yes";

/// Why the wall clock is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It differs from the database's by this much.
    FromDatabase(Seconds),
    /// It jumped ahead by this much while this node ran.
    Ahead(Seconds),
    /// It is behind the time that was reached by this much.
    Behind(Seconds),
    /// This node started, and the clock is ahead of the newest record by this much: a long stop, or a wrong clock.
    Unconfirmed(Seconds),
}

impl Doubt {
    /// By how much the clock is off, if it is wrong.
    #[must_use]
    pub const fn length(self) -> Seconds {
        match self {
            Self::FromDatabase(by) | Self::Ahead(by) | Self::Behind(by) | Self::Unconfirmed(by) => by,
        }
    }

    /// Its name for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromDatabase(_) => "from_database",
            Self::Ahead(_) => "ahead",
            Self::Behind(_) => "behind",
            Self::Unconfirmed(_) => "unconfirmed",
        }
    }

    /// Whether the node may well be right: a start after a long stop looks like this.
    #[must_use]
    pub const fn is_harmless(self) -> bool {
        matches!(self, Self::Unconfirmed(_))
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromDatabase(by) => write!(
                f,
                "this machine's clock is {} {} the database's; set the clock that is wrong",
                by.abs(),
                if by.0 < 0 { "behind" } else { "ahead of" }
            ),
            Self::Ahead(by) => write!(
                f,
                "the clock jumped ahead by {by}; set it, or run '{CONFIRM_COMMAND}' if it is right now"
            ),
            Self::Behind(by) => write!(
                f,
                "the clock is {} behind the time that was reached; set it, or run '{CONFIRM_COMMAND}' if it is right now",
                by.abs()
            ),
            Self::Unconfirmed(by) => write!(
                f,
                "the clock is unconfirmed: at the start it was ahead of the newest record by {by}, as after a stop; until it is confirmed, by \
                 '{CONFIRM_COMMAND}' or by itself once it has run evenly for as long as a retired key stays, the schedule makes and drops \
                 no key and nothing is forgotten"
            ),
        }
    }
}

/// Since when the clock runs evenly, and what it said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steady {
    since: Duration,
    time: UnixTime,
}

/// A step of the clock that is confirmed: `from` was reached, and `to` is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// The time that keys went by.
    pub from: UnixTime,
    /// The time that they go by from now on.
    pub to: UnixTime,
    /// The times of keys that activate after this one move by the length of the step.
    pub newer_than: UnixTime,
    /// Two clocks tell the length of the step differently, so what is in the set stays for a full window.
    pub kept: Kept,
}

/// For how long a clock that is ahead must run evenly before the schedule may confirm it: as long as any key that was superseded
/// stays. Whatever was signed, denied or ended before the doubt is over by then, whether the clock is right or not.
#[must_use]
pub fn patience(keys: &Keys, policy: &Policy) -> Seconds {
    policy.verify_window(keys.longest_token(policy))
}

/// The time at one look, sure or in doubt, from which later moments are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedTime {
    reached: UnixTime,
    monotonic: Duration,
    /// The reference less `reached`.
    offset: Seconds,
    /// The same when this node was last sure.
    usual: Seconds,
    doubt: Option<Doubt>,
    /// No look before this doubt was sure: the wall is the best guess for what tokens say.
    since_start: bool,
    steady: Option<Steady>,
    record: ClockRecord,
}

impl TrustedTime {
    /// Compares a reading with its reference, the previous look and the record. Half of `clock_skew` is the tolerance.
    #[must_use]
    pub fn check(
        previous: Option<&Self>,
        record: ClockRecord,
        reading: Reading,
        reference: Reference,
        clock_skew: Seconds,
    ) -> Self {
        let time = reference.time(reading);
        let expected = match previous {
            // A step that this node did not see moved the times in the rows, and so what this node has reached.
            Some(previous) => previous.carried_to(reading) + (record.stepped - previous.record.stepped),
            None => record.reached.unwrap_or(time),
        };
        // A clock that differs from the database's by what is tolerated is not ahead of itself.
        let usual = previous.map_or(Seconds::ZERO, |previous| previous.usual);
        let difference = time - (expected + usual);
        // Nodes that wrote the record may differ by S, and a clock that is slow by half of it is no wrong clock.
        let behind = if previous.is_none() {
            clock_skew
        } else {
            half(clock_skew)
        };
        let agrees = difference <= half(clock_skew) && difference >= Seconds::ZERO - behind;
        // Only a node that is sure, and a confirmed step, write this part of the record.
        let confirmed = previous.is_some_and(|previous| previous.record.confirmed != record.confirmed)
            && (time - record.confirmed).abs() <= clock_skew;
        let sure = agrees || confirmed;
        let from_reference = reading.wall - time;
        let since_start = !sure && previous.is_none_or(|previous| previous.since_start);
        let doubt = if from_reference.abs() > half(clock_skew) {
            Some(Doubt::FromDatabase(from_reference))
        } else if sure {
            None
        } else if difference < Seconds::ZERO {
            Some(Doubt::Behind(difference))
        } else if since_start {
            Some(Doubt::Unconfirmed(difference))
        } else {
            Some(Doubt::Ahead(difference))
        };
        let reached = match doubt {
            None => reading.wall,
            Some(_) if sure => time,
            // Another node in doubt may have lived through more.
            Some(_) => record.reached.map_or(expected, |reached| reached.max(expected)),
        };
        // Time is carried in whole seconds. What is left over counts at the next look, or a clock in doubt would fall behind
        // with every look.
        let left_over = previous.filter(|_| !sure && reached == expected).map_or(0, |previous| {
            reading.monotonic.saturating_sub(previous.monotonic).subsec_nanos()
        });
        let steady = previous.and_then(|previous| previous.steady).filter(|steady| {
            let passed = reading.monotonic.saturating_sub(steady.since);
            (time - (steady.time + whole(passed))).abs() <= half(clock_skew)
        });
        let is_ahead = matches!(doubt, Some(Doubt::Ahead(_) | Doubt::Unconfirmed(_)));
        Self {
            reached,
            monotonic: reading.monotonic.saturating_sub(Duration::from_nanos(left_over.into())),
            offset: time - reached,
            usual: if sure { time - reached } else { usual },
            doubt,
            since_start,
            steady: is_ahead.then(|| {
                steady.unwrap_or(Steady {
                    since: reading.monotonic,
                    time,
                })
            }),
            record,
        }
    }

    /// The time that tokens and sessions go by at a later reading: the wall, unless it jumped since this look.
    #[must_use]
    pub fn now(&self, reading: Reading, clock_skew: Seconds) -> UnixTime {
        if self.is_ahead_since_start() {
            self.carried_to(reading) + self.offset
        } else {
            self.reached_at(reading, clock_skew)
        }
    }

    /// The time that keys go by, and whatever is forgotten, at a later reading. It is never ahead of what was lived through.
    #[must_use]
    pub fn reached_at(&self, reading: Reading, clock_skew: Seconds) -> UnixTime {
        let expected = self.carried_to(reading);
        if self.doubt.is_none() && (reading.wall - expected).abs() <= half(clock_skew) {
            reading.wall
        } else {
            expected
        }
    }

    /// The time that tokens and sessions go by at the look itself.
    #[must_use]
    pub fn checked_at(&self) -> UnixTime {
        if self.is_ahead_since_start() {
            self.reached + self.offset
        } else {
            self.reached
        }
    }

    /// The time that keys go by at the look itself.
    #[must_use]
    pub const fn reached(&self) -> UnixTime {
        self.reached
    }

    /// What the reference said at the look, right or wrong.
    #[must_use]
    pub fn reference(&self) -> UnixTime {
        self.reached + self.offset
    }

    /// The latest time that it may be: what is told of a revocation must not be too early, whichever clock is right.
    #[must_use]
    pub fn latest(&self) -> UnixTime {
        match self.doubt {
            None => self.reached,
            Some(_) => self.reached.max(self.reference()),
        }
    }

    /// The same moment by the reference's clock.
    #[must_use]
    pub fn by_reference(&self, time: UnixTime) -> UnixTime {
        time + self.offset
    }

    /// What the database said about time at this look.
    #[must_use]
    pub const fn record(&self) -> ClockRecord {
        self.record
    }

    /// The step that confirming this clock is. Every unrevoked key is at its end what it was at its beginning.
    #[must_use]
    pub fn step(&self, record: ClockRecord, keys: &Keys, policy: &Policy) -> ClockStep {
        let from = self.reached();
        // What the reference is ahead by when all is well is no part of the step.
        let to = self.reference() - self.usual;
        // What is older has had all its effects, unless a node in doubt signed by it.
        let kept = keys
            .kept()
            .filter(|_| keys.is_keeping(policy, from))
            .map(|kept| kept.from);
        let old = from - patience(keys, policy);
        let old = [kept, record.doubted].into_iter().flatten().fold(old, UnixTime::min);
        // After a step back a key that did not move would be overtaken.
        let newer_than = if to > from { old } else { UnixTime(i64::MIN) };
        ClockStep {
            from,
            to,
            newer_than,
            kept: Kept {
                from: old + (to - from),
                at: to,
            },
        }
    }

    /// Whether the record is so old that this node is to write it.
    #[must_use]
    pub fn should_write_record(&self, clock_skew: Seconds) -> bool {
        let written = match self.doubt {
            None => Some(self.record.confirmed),
            Some(_) => self.record.reached,
        };
        let pause = Seconds((clock_skew.0 / 4).max(1));
        let is_old = written.is_none_or(|written| (self.reached - written).abs() >= pause);
        self.agrees_with_database() && (is_old || self.changes_mark())
    }

    /// Whether this node signs in doubt and no mark says so, or is sure and finds the mark of one that does.
    fn changes_mark(&self) -> bool {
        let doubted = self.record.doubted;
        match self.doubt {
            None => doubted.is_some(),
            Some(_) => doubted.is_none_or(|doubted| doubted > self.reached),
        }
    }

    /// What this node writes into the record.
    #[must_use]
    pub fn next_record(&self) -> ClockRecord {
        match self.doubt {
            None => ClockRecord {
                reached: Some(self.reached),
                confirmed: self.reached,
                doubted: None,
                ..self.record
            },
            // What was reached only grows while it is in doubt.
            Some(_) => ClockRecord {
                reached: self.record.reached.max(Some(self.reached)),
                doubted: self.record.doubted.min(Some(self.reached)).or(Some(self.reached)),
                ..self.record
            },
        }
    }

    /// The same look, after this node has written the record.
    #[must_use]
    pub const fn having_written(mut self, record: ClockRecord) -> Self {
        self.record = record;
        self
    }

    /// Why the wall is in doubt; none when all is well.
    #[must_use]
    pub const fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Whether this node may make, destroy and purge keys, and drop one from its set.
    #[must_use]
    pub const fn may_plan(&self) -> bool {
        self.doubt.is_none()
    }

    /// Whether this node may sign: with a jumped clock it goes by the time that it reached, but a node that disagrees with the
    /// database's clock disagrees with the other nodes. In doubt it signs only under a mark, by which the others keep its keys.
    #[must_use]
    pub const fn may_sign(&self) -> bool {
        self.agrees_with_database() && (self.doubt.is_none() || self.record.doubted.is_some())
    }

    /// Whether this node may judge tokens.
    #[must_use]
    pub const fn agrees_with_database(&self) -> bool {
        !matches!(self.doubt, Some(Doubt::FromDatabase(_)))
    }

    /// Whether a clock that is ahead has run evenly for so long that the schedule may confirm it.
    #[must_use]
    pub fn is_steady_for(&self, reading: Reading, patience: Seconds) -> bool {
        self.steady
            .is_some_and(|steady| whole(reading.monotonic.saturating_sub(steady.since)) >= patience)
    }

    /// Since when the clock counts evenly, by what it said then, although it is in doubt: what passed since then has passed,
    /// whichever time it is. None when it is sure, or when nothing is known of how it counts.
    #[must_use]
    pub fn steady_since(&self) -> Option<UnixTime> {
        self.steady.map(|steady| steady.time)
    }

    /// Nothing but the reference says how long the stop was.
    fn is_ahead_since_start(&self) -> bool {
        self.since_start && self.offset > Seconds::ZERO
    }

    fn carried_to(&self, reading: Reading) -> UnixTime {
        self.reached + whole(reading.monotonic.saturating_sub(self.monotonic))
    }
}

fn whole(passed: Duration) -> Seconds {
    Seconds(i64::try_from(passed.as_secs()).unwrap_or(i64::MAX))
}

const fn half(clock_skew: Seconds) -> Seconds {
    Seconds(clock_skew.0 / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Seconds = Seconds(60);
    const DAY: i64 = 86_400;

    fn reading(wall: i64, milliseconds: u64) -> Reading {
        Reading {
            wall: UnixTime(wall),
            monotonic: Duration::from_millis(milliseconds),
        }
    }

    fn reached(time: i64) -> ClockRecord {
        ClockRecord {
            reached: Some(UnixTime(time)),
            confirmed: UnixTime(time),
            ..ClockRecord::default()
        }
    }

    /// A look beside a file.
    fn look(previous: Option<&TrustedTime>, record: ClockRecord, reading: Reading) -> TrustedTime {
        TrustedTime::check(previous, record, reading, Reference::Monotonic, SKEW)
    }

    #[test]
    fn half_of_the_skew_is_tolerated() {
        for (wall, good) in [(1_030, true), (1_031, false), (970, true), (969, false)] {
            let reference = Reference::Database(UnixTime(1_000));
            let checked = TrustedTime::check(None, ClockRecord::default(), reading(wall, 0), reference, SKEW);
            assert_eq!(checked.may_plan(), good, "{wall}");
            assert_eq!(checked.may_sign(), good, "{wall}");
            assert_eq!(checked.checked_at(), UnixTime(if good { wall } else { 1_000 }));
        }
    }

    #[test]
    fn a_jump_beside_a_file_stops_planning_and_not_signing() {
        let first = look(None, ClockRecord::default(), reading(1_000, 0));
        assert_eq!(first.now(reading(9_000, 5_000), SKEW), UnixTime(1_005));
        let jumped = look(Some(&first), ClockRecord::default(), reading(9_000, 10_000));
        assert_eq!(jumped.doubt(), Some(Doubt::Ahead(Seconds(7_990))));
        assert!(
            !jumped.may_plan() && !jumped.may_sign(),
            "no mark says yet that it is in doubt"
        );
        let jumped = jumped.having_written(jumped.next_record());
        assert!(!jumped.may_plan() && jumped.may_sign());
        assert_eq!(jumped.checked_at(), UnixTime(1_010));
        let returned = look(Some(&jumped), ClockRecord::default(), reading(1_025, 20_000));
        assert_eq!(returned.doubt(), None);
        assert_eq!(returned.checked_at(), UnixTime(1_025));
    }

    #[test]
    fn a_database_on_the_same_wrong_clock_is_no_witness() {
        let at = |previous: Option<&TrustedTime>, off_by: i64, seconds: u64| {
            let wall = 10 * DAY + off_by + i64::try_from(seconds).unwrap();
            let reference = Reference::Database(UnixTime(wall));
            TrustedTime::check(
                previous,
                reached(10 * DAY),
                reading(wall, seconds * 1_000),
                reference,
                SKEW,
            )
        };
        let first = at(None, 0, 0);
        for off_by in [-26 * 3_600, 26 * 3_600, -31, 31] {
            let wrong = at(Some(&first), off_by, 9);
            let wrong = wrong.having_written(wrong.next_record());
            assert!(!wrong.may_plan() && wrong.may_sign(), "{off_by}: {wrong:?}");
            assert_eq!(wrong.reached(), UnixTime(10 * DAY + 9));
            assert_eq!(wrong.checked_at(), UnixTime(10 * DAY + 9));
            let right = at(Some(&wrong), 0, 18);
            assert_eq!((right.doubt(), right.reached()), (None, UnixTime(10 * DAY + 18)));
        }
    }

    #[test]
    fn a_database_that_jumps_alone_does_not_take_a_node_along() {
        let first = TrustedTime::check(
            None,
            ClockRecord::default(),
            reading(1_000, 0),
            Reference::Monotonic,
            SKEW,
        );
        let reference = Reference::Database(UnixTime(9_000));
        let jumped = TrustedTime::check(
            Some(&first),
            ClockRecord::default(),
            reading(1_010, 10_000),
            reference,
            SKEW,
        );
        assert_eq!(jumped.doubt(), Some(Doubt::FromDatabase(Seconds(-7_990))));
        assert_eq!(jumped.reached(), UnixTime(1_010));
    }

    #[test]
    fn a_clock_at_the_edge_of_the_tolerance_is_not_in_doubt() {
        for off_by in [-30, 30] {
            let mut trusted = None;
            for second in 0..100_u64 {
                let wall = 10 * DAY + off_by + i64::try_from(second).unwrap();
                let reference = Reference::Database(UnixTime(wall - off_by));
                let reading = reading(wall, second * 1_000 + 999);
                let next = TrustedTime::check(trusted.as_ref(), reached(10 * DAY), reading, reference, SKEW);
                assert_eq!(next.doubt(), None, "{off_by} after {second} s");
                assert_eq!(next.reached(), UnixTime(wall));
                trusted = Some(next);
            }
        }
    }

    #[test]
    fn a_start_is_compared_with_the_record() {
        let start = |off_by: i64| look(None, reached(10 * DAY), reading(10 * DAY + off_by, 0));
        for (off_by, doubt) in [
            (-61, Some(Doubt::Behind(Seconds(-61)))),
            (-60, None),
            (30, None),
            (31, Some(Doubt::Unconfirmed(Seconds(31)))),
        ] {
            assert_eq!(start(off_by).doubt(), doubt, "{off_by}");
        }
        // Behind, everything goes by the record. Ahead, tokens go by the wall and keys by the record.
        let behind = start(-DAY);
        assert_eq!(
            (behind.checked_at(), behind.reached()),
            (UnixTime(10 * DAY), UnixTime(10 * DAY))
        );
        let ahead = start(7 * DAY);
        assert_eq!(
            (ahead.checked_at(), ahead.reached()),
            (UnixTime(17 * DAY), UnixTime(10 * DAY))
        );
        let later = reading(17 * DAY + 5, 5_000);
        assert_eq!(ahead.now(later, SKEW), UnixTime(17 * DAY + 5));
        assert_eq!(ahead.reached_at(later, SKEW), UnixTime(10 * DAY + 5));
        // A time service puts it right.
        let right = look(Some(&ahead), reached(10 * DAY), reading(10 * DAY + 6, 6_000));
        assert_eq!(right.doubt(), None);
        let right = look(Some(&behind), reached(10 * DAY), reading(10 * DAY + 6, 6_000));
        assert_eq!(right.doubt(), None);
    }

    #[test]
    fn a_node_that_is_sure_confirms_what_another_one_doubts() {
        let first = look(None, ClockRecord::default(), reading(1_000, 0));
        let resumed = look(Some(&first), reached(1_000), reading(9_000, 10_000));
        // The record that this node wrote itself says nothing.
        let first = first.having_written(reached(1_000));
        assert!(!look(Some(&first), reached(1_000), reading(9_000, 10_000)).may_plan());
        for (record, sure) in [(9_010, true), (1_020, false), (8_900, false)] {
            let next = look(Some(&resumed), reached(record), reading(9_012, 22_000));
            assert_eq!(next.may_plan(), sure, "{record}");
        }
    }

    #[test]
    fn a_clock_that_runs_evenly_for_long_may_be_confirmed_if_it_is_ahead() {
        let first = look(None, ClockRecord::default(), reading(10 * DAY, 0));
        let mut jumped = [DAY, -DAY].map(|by| look(Some(&first), ClockRecord::default(), reading(10 * DAY + by, 0)));
        for second in 1..=100_u64 {
            let passed = i64::try_from(second).unwrap();
            for (place, by) in [DAY, -DAY].into_iter().enumerate() {
                let reading = reading(10 * DAY + by + passed, second * 1_000);
                jumped[place] = look(Some(&jumped[place]), ClockRecord::default(), reading);
                let steady = jumped[place].is_steady_for(reading, Seconds(100));
                assert_eq!(steady, by > 0 && second == 100, "{by} after {second}");
            }
        }
        // One that jumps about begins again.
        let again = reading(10 * DAY + 500, 101_000);
        let again = look(Some(&jumped[0]), ClockRecord::default(), again);
        assert!(!again.is_steady_for(reading(0, 150_000), Seconds(100)));
    }

    #[test]
    fn a_node_in_doubt_signs_under_a_mark_that_one_that_is_sure_ends() {
        let late = look(None, reached(1_000), reading(9_000, 0));
        assert!(late.doubt().is_some() && !late.may_sign() && late.agrees_with_database());
        assert!(late.should_write_record(SKEW));
        let marked = late.next_record();
        assert_eq!(marked.doubted, Some(UnixTime(1_000)));
        assert!(late.having_written(marked).may_sign());
        // An earlier mark stays.
        let next = look(Some(&late.having_written(marked)), marked, reading(9_005, 5_000));
        assert!(next.may_sign() && next.next_record().doubted == Some(UnixTime(1_000)));
        let sure = look(
            None,
            ClockRecord {
                doubted: Some(UnixTime(500)),
                ..reached(1_000)
            },
            reading(1_000, 0),
        );
        assert!(sure.may_sign() && sure.should_write_record(SKEW));
        assert_eq!(sure.next_record().doubted, None);
    }

    #[test]
    fn a_step_that_a_node_did_not_see_counts() {
        let first = look(None, reached(1_000), reading(1_000, 0));
        let stepped = ClockRecord {
            stepped: Seconds(80),
            ..reached(1_090)
        };
        // Its own clock is right, and the times in the rows are not.
        let behind = look(Some(&first), stepped, reading(1_010, 10_000));
        assert_eq!(behind.doubt(), Some(Doubt::Behind(Seconds(-80))));
        assert_eq!(behind.reached(), UnixTime(1_090));
        let same = look(Some(&first), stepped, reading(1_090, 10_000));
        assert_eq!((same.doubt(), same.reached()), (None, UnixTime(1_090)));
    }

    #[test]
    fn a_clock_in_doubt_does_not_fall_behind_with_every_look() {
        let mut trusted = look(None, ClockRecord::default(), reading(1_000, 0));
        for step in 1..=100 {
            // Every 1.9 seconds, with a wall that is 50 seconds back.
            let wall = 950 + i64::try_from(step * 1_900 / 1_000).unwrap();
            trusted = look(Some(&trusted), ClockRecord::default(), reading(wall, step * 1_900));
            assert!(trusted.doubt().is_some(), "look {step}");
        }
        assert_eq!(trusted.checked_at(), UnixTime(1_190));
    }
}
