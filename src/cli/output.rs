//! How results are printed: JSON for programs, aligned tables with absolute and relative times for people.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom, fallocate, fcntl_getfl, fstat, makedev, seek};
use rustix::io::Errno;
use serde::Serialize;

use crate::clock::{Seconds, UnixTime};
use crate::keys::state::State;
pub use crate::text::printable;

use super::failure::Failure;

/// How long the end of the process waits for standard error.
const COMPLAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) {
    line(&pretty(value));
}

/// The same with a secret that is shown this once.
pub fn secret_json(value: &impl Serialize) {
    secret(&pretty(value));
}

fn pretty(value: &impl Serialize) -> String {
    // Our own types: strings, numbers and times.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The first failure to write to standard output. A command goes on after it, and fails at its end.
static UNWRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a line. A reader that went away (`| head`) is no failure; [`unwritten`] keeps every other one.
pub fn line(text: &str) {
    match print(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => keep(error),
        _ => {}
    }
}

/// Prints a text that is shown this once: a reader that went away is a failure too.
pub fn secret(text: &str) {
    if let Err(error) = print(text) {
        keep(error);
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn keep(error: std::io::Error) {
    // The first failure is the one to report.
    let _ = UNWRITTEN.set(error);
}

/// The most that a command prints with a secret, in bytes.
const SECRET_ROOM: u64 = 4_096;

/// Refuses a change that gives a secret which would be lost. What happens to standard output afterwards, [`unwritten`] reports.
pub fn require_reader() -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::Refused(format!(
            "nothing was changed, because the secret is shown once and {why}; run it on a terminal, or send its output to a file or another \
             program"
        ))
    };
    let out = std::io::stdout();
    let unwritable = |error: std::io::Error| refused(&format!("standard output cannot be written: {error}"));
    let stat = fstat(&out).map_err(|error| unwritable(error.into()))?;
    let flags = fcntl_getfl(&out).map_err(|error| unwritable(error.into()))?;
    // The standard library opens /dev/null for reading and writing in place of a descriptor that is closed. A shell opens it for writing.
    if stat.st_rdev == makedev(1, 3)
        && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && flags.contains(OFlags::RDWR)
    {
        return Err(refused("standard output is closed"));
    }
    let mut polled = [PollFd::new(&out, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).map_err(|error| unwritable(error.into()))?;
    if polled[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL) {
        return Err(refused("no program reads standard output any more"));
    }
    // A device says so at a write of nothing.
    rustix::io::write(&out, b"").map_err(|error| unwritable(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        let end = if flags.contains(OFlags::APPEND) {
            u64::try_from(stat.st_size).unwrap_or(0)
        } else {
            seek(&out, SeekFrom::Current(0)).unwrap_or(0)
        };
        match fallocate(&out, FallocateFlags::KEEP_SIZE, end, SECRET_ROOM) {
            // Not every file system reserves room.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
            Err(error) => return Err(unwritable(error.into())),
        }
    }
    Ok(())
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
fn relative(at: UnixTime, now: UnixTime) -> String {
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
