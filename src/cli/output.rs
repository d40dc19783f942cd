//! How results are printed: JSON for programs, aligned tables with absolute and relative times for people.

use std::io::Write;

use serde::Serialize;

use crate::clock::{Seconds, UnixTime};

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) {
    // Our own types: strings, numbers and times.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// Prints a line. A reader that went away (`| head`) is no failure.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A time with its distance from now: `2026-11-22T21:00:00Z (in 23h)`.
pub fn time(at: UnixTime, now: UnixTime) -> String {
    format!("{at} ({})", relative(at, now))
}

/// The distance of a time from now, in its two largest units.
pub fn relative(at: UnixTime, now: UnixTime) -> String {
    let distance = at - now;
    let rounded = coarse(distance.abs());
    match distance.0 {
        0 => "now".to_owned(),
        1.. => format!("in {rounded}"),
        _ => format!("{rounded} ago"),
    }
}

fn coarse(length: Seconds) -> Seconds {
    let unit = match length.0 {
        86_400.. => 3_600,
        3_600.. => 60,
        _ => 1,
    };
    Seconds(length.0 / unit * unit)
}

/// Aligned columns under their headings; the last one is not padded.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([headings[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(headings.to_vec())];
    lines.extend(rows.iter().map(|row| render(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_two_units() {
        let now = UnixTime(1_000_000);
        for (distance, text) in [
            (0, "now"),
            (59, "in 59s"),
            (-61, "1m1s ago"),
            (82_801, "in 23h"),
            (90_061, "in 1d1h"),
        ] {
            assert_eq!(relative(now + Seconds(distance), now), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&["X", "Y"], &rows), "X    Y\na    bb\nccc  d");
    }
}
