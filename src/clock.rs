//! Time: the two types that carry it, and the only code that reads it.
//!
//! Everything else takes time as an argument; clippy refuses `SystemTime::now` and its relatives outside this file.

use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: whole seconds since 1970-01-01T00:00:00Z, as `NumericDate` (RFC 7519 section 2) without a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

/// A length of time in whole seconds; negative when it is the difference to a later time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub i64);

impl UnixTime {
    /// Later than every time that a key or a token carries.
    pub const FAR_FUTURE: Self = Self(i64::MAX / 4);

    /// The time in RFC 3339, UTC, whole seconds (`2026-11-22T21:00:00Z`); beyond the calendar's range, the number itself.
    #[must_use]
    pub fn rfc3339(self) -> String {
        chrono::DateTime::from_timestamp(self.0, 0).map_or_else(
            || self.0.to_string(),
            |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        )
    }
}

/// The text is no point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTime {
    /// It is written in another form.
    #[error("a time is Unix seconds (a token's exp) or RFC 3339, such as 2026-11-22T21:00:00Z")]
    Form,
    /// It is nearly a time.
    #[error("a time is Unix seconds (a token's exp) or RFC 3339; did you mean {0}?")]
    Nearly(String),
    /// It is a number of smaller units.
    #[error("a time is Unix seconds, and this looks like {0}; did you mean {1}?")]
    Finer(&'static str, i64),
}

impl FromStr for UnixTime {
    type Err = InvalidTime;

    /// Reads Unix seconds, or a time in RFC 3339 of any offset; a fraction of a second is left out.
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        // The reader takes MINUS SIGN (U+2212) for a hyphen, which RFC 3339 does not have.
        let rfc3339 = |text: &str| {
            let time = chrono::DateTime::parse_from_rfc3339(text).ok();
            time.filter(|_| text.is_ascii()).map(|time| Self(time.timestamp()))
        };
        if let Some(time) = rfc3339(text) {
            return Ok(time);
        }
        if let Ok(number) = text.parse::<i64>()
            && text.bytes().all(|byte| byte.is_ascii_digit())
        {
            return match (text.len(), finer_unit(number)) {
                (_, Some((unit, of_second))) => Err(InvalidTime::Finer(unit, number / of_second)),
                (..=11, None) => Ok(Self(number)),
                _ => Err(InvalidTime::Form),
            };
        }
        // As `date` writes seconds, and with a fraction.
        let whole = text.trim_start_matches('@').split('.').next().unwrap_or_default();
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        let is_fraction = text.split_once('.').is_none_or(|(_, fraction)| is_digits(fraction));
        if (9..=11).contains(&whole.len()) && is_digits(whole) && is_fraction {
            return Err(InvalidTime::Nearly(whole.to_owned()));
        }
        let completed = [
            format!("{text}T00:00:00Z"),
            format!("{text}Z"),
            format!("{text}:00Z"),
            text.replace('\u{2212}', "-"),
        ];
        let nearly = completed.into_iter().find(|text| rfc3339(text).is_some());
        Err(nearly.map_or(InvalidTime::Form, InvalidTime::Nearly))
    }
}

/// The unit of a number that is too large for the seconds of any calendar that people keep, and how many of it are in a second:
/// milliseconds and finer units of our time have more than 11 digits.
#[must_use]
pub const fn finer_unit(number: i64) -> Option<(&'static str, i64)> {
    match number {
        100_000_000_000..=99_999_999_999_999 => Some(("milliseconds", 1_000)),
        100_000_000_000_000..=99_999_999_999_999_999 => Some(("microseconds", 1_000_000)),
        100_000_000_000_000_000..=4_999_999_999_999_999_999 => Some(("nanoseconds", 1_000_000_000)),
        _ => None,
    }
}

impl Seconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// The length without its sign.
    #[must_use]
    pub const fn abs(self) -> Self {
        Self(self.0.saturating_abs())
    }

    /// The same length for the standard library; a negative one is zero.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::try_from(self.0).unwrap_or(0))
    }
}

impl Add<Seconds> for UnixTime {
    type Output = Self;
    fn add(self, length: Seconds) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Sub<Seconds> for UnixTime {
    type Output = Self;
    fn sub(self, length: Seconds) -> Self {
        Self(self.0.saturating_sub(length.0))
    }
}

impl Sub for UnixTime {
    type Output = Seconds;
    fn sub(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Seconds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Seconds {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<i64> for Seconds {
    type Output = Self;
    fn mul(self, factor: i64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Written as in the configuration: the largest units first, zero parts left out (`30d`, `1h6m35s`).
impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.unsigned_abs();
        if rest == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if rest >= length {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

/// One look at the clock: wall time, and the time since an arbitrary start that no one can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the machine believes the time to be.
    pub wall: UnixTime,
    /// Time since some fixed moment of this process; never goes back. A virtual machine that is stopped does not count, and
    /// outside of Linux a suspended machine does not.
    pub monotonic: Duration,
}

/// Where time comes from: the machine, or a test that sets it.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    System { started: Duration },
    Manual(Arc<Mutex<Reading>>),
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(ClockSource::System { started: monotonic() })
    }

    /// A clock that stands still until a test moves it.
    #[must_use]
    pub fn manual(start: UnixTime) -> Self {
        Self(ClockSource::Manual(Arc::new(Mutex::new(Reading {
            wall: start,
            monotonic: Duration::ZERO,
        }))))
    }

    /// Both clocks at this moment.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one file that reads the clock")]
    pub fn read(&self) -> Reading {
        match &self.0 {
            ClockSource::System { started } => Reading {
                wall: UnixTime(chrono::Utc::now().timestamp()),
                monotonic: monotonic().saturating_sub(*started),
            },
            ClockSource::Manual(reading) => *reading.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// Lets time pass on a manual clock, on both its hands; the machine's clock is not moved.
    pub fn advance(&self, length: Seconds) {
        self.change(|reading| {
            reading.wall = reading.wall + length;
            reading.monotonic += length.duration();
        });
    }

    /// Moves only the wall time of a manual clock, as a person or a time server does; the machine's clock is not moved.
    pub fn jump(&self, length: Seconds) {
        self.change(|reading| reading.wall = reading.wall + length);
    }

    fn change(&self, change: impl FnOnce(&mut Reading)) {
        if let ClockSource::Manual(reading) = &self.0 {
            change(&mut reading.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }
}

/// The time since the machine started; with Linux the time that it was suspended counts.
#[cfg(target_os = "linux")]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "the one file that reads the clock")]
fn monotonic() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// Waits for a length of time, or for less when the process is told to go on; the tasks' only way to sleep.
#[expect(clippy::disallowed_methods, reason = "the one file that waits for the clock")]
pub async fn sleep(length: Duration) {
    tokio::time::sleep(length).await;
}

/// A length of time that a stream waits for.
pub struct Timer(Pin<Box<tokio::time::Sleep>>);

impl Timer {
    /// Begins now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one file that waits for the clock")]
    pub fn new(length: Duration) -> Self {
        Self(Box::pin(tokio::time::sleep(length)))
    }

    /// Begins again.
    pub fn reset(&mut self, length: Duration) {
        self.0.as_mut().reset(tokio::time::Instant::now() + length);
    }

    /// Ready when the time is over.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

/// The time that [`sleep`] measures, since some fixed moment of this process; a manual clock does not move it.
#[must_use]
pub fn uptime() -> Duration {
    static STARTED: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);
    let started = *STARTED;
    tokio::time::Instant::now().saturating_duration_since(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_they_are_configured() {
        for (seconds, text) in [
            (0, "0s"),
            (10, "10s"),
            (300, "5m"),
            (3_995, "1h6m35s"),
            (2_592_000, "30d"),
            (-60, "-1m"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }

    #[test]
    fn times_are_written_in_rfc_3339_and_never_panic() {
        assert_eq!(UnixTime(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixTime(i64::MAX).rfc3339(), i64::MAX.to_string());
        assert_eq!(UnixTime(i64::MAX) + Seconds(1), UnixTime(i64::MAX));
    }

    #[test]
    fn a_jump_moves_the_wall_alone() {
        let clock = Clock::manual(UnixTime(100));
        clock.advance(Seconds(5));
        clock.jump(Seconds(-50));
        assert_eq!(
            clock.read(),
            Reading {
                wall: UnixTime(55),
                monotonic: Duration::from_secs(5)
            }
        );
    }

    #[test]
    fn a_time_is_seconds_or_rfc_3339() {
        for (text, time) in [
            ("2026-11-22T21:00:00Z", Ok(UnixTime(1_795_381_200))),
            ("2026-11-22T22:00:00.5+01:00", Ok(UnixTime(1_795_381_200))),
            ("1795381200", Ok(UnixTime(1_795_381_200))),
            ("0", Ok(UnixTime(0))),
            ("1795381200000", Err(InvalidTime::Finer("milliseconds", 1_795_381_200))),
            ("@1795381200", Err(InvalidTime::Nearly("1795381200".to_owned()))),
            ("1795381200.25", Err(InvalidTime::Nearly("1795381200".to_owned()))),
            ("1795381200.", Err(InvalidTime::Form)),
            ("@", Err(InvalidTime::Form)),
            ("99999999999", Ok(UnixTime(99_999_999_999))),
            ("100000000000", Err(InvalidTime::Finer("milliseconds", 100_000_000))),
            (
                "1795381200000000",
                Err(InvalidTime::Finer("microseconds", 1_795_381_200)),
            ),
            ("9223372036854775807", Err(InvalidTime::Form)),
            (
                "2026-11-22",
                Err(InvalidTime::Nearly("2026-11-22T00:00:00Z".to_owned())),
            ),
            (
                "2026-11-22T21:00:00",
                Err(InvalidTime::Nearly("2026-11-22T21:00:00Z".to_owned())),
            ),
            (
                "2026-11-22 21:00",
                Err(InvalidTime::Nearly("2026-11-22 21:00:00Z".to_owned())),
            ),
            (
                "2026-11-22T19:00:00\u{2212}02:00",
                Err(InvalidTime::Nearly("2026-11-22T19:00:00-02:00".to_owned())),
            ),
            ("2026-11-22T19:00:00-02:00", Ok(UnixTime(1_795_381_200))),
            ("-1", Err(InvalidTime::Form)),
            ("+1", Err(InvalidTime::Form)),
            (
                "1795381200000000000",
                Err(InvalidTime::Finer("nanoseconds", 1_795_381_200)),
            ),
            ("tomorrow", Err(InvalidTime::Form)),
            ("", Err(InvalidTime::Form)),
        ] {
            assert_eq!(text.parse::<UnixTime>(), time, "{text}");
        }
    }
}
