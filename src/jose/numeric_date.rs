//! `NumericDate` as other systems write it (RFC 7519 section 2): a JSON number, which may have a fraction or an exponent.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Above this, a floating-point number no longer holds every whole second.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The whole second that contains the moment; none for anything but a number in range.
#[must_use]
pub fn whole_seconds(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| {
        let seconds = number.as_f64()?.floor();
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within the bound")]
        (seconds.abs() <= MAX_EXACT).then_some(seconds as i64)
    })
}

/// Reads a `NumericDate` member.
///
/// # Errors
/// For anything but a number in range.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    whole_seconds(&value).ok_or_else(|| serde::de::Error::custom("a time must be a number of seconds"))
}

/// Reads a `NumericDate` member that may be absent, but not null.
///
/// # Errors
/// For anything but a number in range.
pub fn deserialize_optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_or_an_exponent_is_a_number_too() {
        for (text, seconds) in [
            ("1795895060", Some(1_795_895_060)),
            ("1795895060.5", Some(1_795_895_060)),
            ("1795895060.999999", Some(1_795_895_060)),
            ("1.795895060e9", Some(1_795_895_060)),
            ("1795895060.0", Some(1_795_895_060)),
            ("-1.5", Some(-2)),
            ("0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("1e300", None),
            ("-1e300", None),
            ("18446744073709551615", None),
            ("\"1795895060\"", None),
            ("null", None),
            ("true", None),
            ("[1]", None),
        ] {
            assert_eq!(whole_seconds(&serde_json::from_str(text).unwrap()), seconds, "{text}");
        }
    }
}
