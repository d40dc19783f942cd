//! How results are printed: JSON for programs, aligned tables with absolute and relative times for people.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Seconds, UnixTime};
use crate::keys::lifecycle::State;
pub use crate::text::printable;

/// How long the end of the process waits for standard error.
const COMPLAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) {
    // Our own types: strings, numbers and times.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// The first failure to write to standard output. A command goes on after it, and fails at its end.
static UNWRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a line. A reader that went away (`| head`) is no failure; [`unwritten`] keeps every other one.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first failure is the one to report.
        let _ = UNWRITTEN.set(error);
    }
}

/// Why output of this command is missing; none when all of it was written.
pub fn unwritten() -> Option<&'static std::io::Error> {
    UNWRITTEN.get()
}

/// Prints a sentence about what went wrong to standard error.
pub fn complain(sentence: &str) {
    print_error(format!("keyround: {sentence}\n"));
}

/// The same for a program.
pub fn complain_in_json(failure: &serde_json::Value) {
    print_error(format!("{failure}\n"));
}

/// A reader that is gone, or does not read, does not hold the end of the process.
fn print_error(text: String) {
    let (sender, written) = channel();
    std::thread::spawn(move || {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        let _ = sender.send(());
    });
    let _ = written.recv_timeout(COMPLAIN_TIMEOUT);
}

/// The state of a key, in colour on a terminal.
pub fn state(state: State) -> String {
    let code = match state {
        State::Pending => 33,
        State::Active => 32,
        State::Retired => 36,
        State::Expired => 90,
        State::Revoked => 31,
    };
    if std::io::stdout().is_terminal() {
        format!("\u{1b}[{code}m{state}\u{1b}[0m")
    } else {
        state.to_string()
    }
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

/// A length in its two largest units.
pub fn coarse(length: Seconds) -> Seconds {
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
            .map(|row| visible_width(&row[column]))
            .chain([headings[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell}{}", " ".repeat(width.saturating_sub(visible_width(cell)))))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(headings.to_vec())];
    lines.extend(rows.iter().map(|row| render(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// The characters that take a place on the screen; those that set a colour do not.
fn visible_width(cell: &str) -> usize {
    let mut escaped = false;
    cell.chars()
        .filter(|&character| {
            let starts = character == '\u{1b}';
            let hidden = escaped || starts;
            escaped = hidden && character != 'm';
            !hidden
        })
        .count()
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

    #[test]
    fn colours_take_no_place() {
        let rows = [
            vec!["\u{1b}[32mab\u{1b}[0m".into(), "x".into()],
            vec!["abc".into(), "y".into()],
        ];
        assert_eq!(table(&["A", "B"], &rows), "A    B\n\u{1b}[32mab\u{1b}[0m   x\nabc  y");
    }

    #[test]
    fn no_text_from_outside_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(printable("\u{202e}a\u{2066}\u{2028}"), "\u{fffd}a\u{fffd}\u{fffd}");
    }
}
