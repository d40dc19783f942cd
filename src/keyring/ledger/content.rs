//! What the text of a ledger says, line by line.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{LedgerError, exposed, refuse_special};
use crate::crypto::sha256;
use crate::jose::jwk::Kid;

/// A line has 53 octets: far more than any site revokes, and far less than memory.
pub(super) const MAX_SIZE: u64 = 16 << 20;

/// How a file ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// With a whole line, or it is empty.
    #[default]
    Whole,
    /// With a name that has no line break: a process was killed, or a person wrote it.
    Unended,
    /// With octets that hold nothing; the part before them is good.
    Torn {
        good: u64,
        /// Whether that part ends with a name that has no line break.
        is_unended: bool,
    },
    /// With the beginning of a line; the part before it is good.
    Cut { good: u64, line: Vec<u8> },
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// The names in lines that are in order.
    pub(super) names: BTreeSet<Kid>,
    /// Those of them that have a checksum.
    pub(super) checked: BTreeSet<Kid>,
    /// What may be a name in the others.
    pub(super) doubtful: BTreeSet<Kid>,
    /// The lines that are damaged, from 1. One that was cut short at the end is not among them.
    damaged: Vec<usize>,
    pub(super) end: End,
    /// How many lines there are.
    lines: usize,
    /// The mode of the file, if others may write it.
    exposed: Option<u32>,
}

impl Content {
    pub(super) fn read(path: &Path) -> Result<Self, LedgerError> {
        let unreadable = |source| LedgerError::Unreadable {
            path: path.to_owned(),
            source,
        };
        refuse_special(path)?;
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened.map_err(unreadable)?,
        };
        let exposed = exposed(&file.metadata().map_err(unreadable)?);
        let mut octets = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut octets).map_err(unreadable)?;
        if octets.len() as u64 > MAX_SIZE {
            return Err(LedgerError::TooLarge { path: path.to_owned() });
        }
        Ok(Self {
            exposed,
            ..Self::parse(&octets)
        })
    }

    fn parse(octets: &[u8]) -> Self {
        let all: Vec<&[u8]> = octets.split(|&octet| octet == b'\n').collect();
        let last = all.len() - 1;
        let lines: Vec<Line> = all
            .iter()
            .enumerate()
            .map(|(index, line)| {
                let mark = if index == 0 { BYTE_ORDER_MARK } else { &[] };
                let line = line.strip_prefix(mark).unwrap_or(line);
                Line::parse(if index == last { without_zeros(line) } else { line })
            })
            .collect();
        let checked: BTreeSet<Kid> = lines.iter().filter_map(Line::checked).cloned().collect();
        let mut content = Self {
            lines: lines.len(),
            ..Self::default()
        };
        for (index, (line, octets)) in lines.into_iter().zip(&all).enumerate() {
            let is_in_order = match &line {
                Line::Blank | Line::Checked(_) => true,
                // Versions that wrote no checksums ended each line.
                Line::Plain(name) if checked.is_empty() => index != last || is_thumbprint(name),
                Line::Plain(name) => checked.contains(name),
                Line::Damaged => false,
            };
            if is_in_order {
                content.names.extend(line.name().filter(|name| name.as_str() != MARK));
            } else {
                content.take_damaged(line, octets);
                if index != last {
                    content.damaged.push(index + 1);
                }
            }
            if index == last {
                content.end = end(octets, is_in_order);
            }
        }
        if let End::Torn { good, .. } | End::Cut { good, .. } = &mut content.end {
            *good += (octets.len() - all[last].len()) as u64;
        }
        content.checked = checked;
        content
    }

    /// What was written over a part of a line has not changed the rest of it.
    fn take_damaged(&mut self, line: Line, octets: &[u8]) {
        let found: Vec<Kid> = thumbprints_in(octets).collect();
        let (sure, doubtful): (Vec<Kid>, Vec<Kid>) = found
            .into_iter()
            .partition(|name| words(octets).any(|word| word == checksum(name).as_bytes()));
        self.names.extend(sure);
        self.doubtful.extend(doubtful);
        self.doubtful.extend(line.name());
    }

    /// What is wrong with it although it was read.
    pub(super) fn fault(&self, path: &Path) -> Option<LedgerError> {
        let path = path.to_owned();
        let cut = matches!(self.end, End::Cut { .. }).then_some(self.lines);
        if let Some(first) = self.damaged.first().copied().or(cut) {
            return Some(LedgerError::Damaged {
                path,
                lines: self.damaged.len() + usize::from(cut.is_some()),
                first,
                names_some: !(self.names.is_empty() && self.doubtful.is_empty()),
            });
        }
        self.exposed.map(|mode| LedgerError::Exposed { path, mode })
    }
}

/// What the octets behind the last line break are.
fn end(octets: &[u8], is_in_order: bool) -> End {
    let kept = without_zeros(octets);
    let is_blank = kept.trim_ascii().is_empty();
    match (is_in_order, octets.len() - kept.len()) {
        (_, 0) if octets.is_empty() => End::Whole,
        (_, _) if is_blank => End::Torn {
            good: 0,
            is_unended: false,
        },
        (true, 0) => End::Unended,
        (true, _) => End::Torn {
            good: kept.len() as u64,
            is_unended: true,
        },
        (false, _) => End::Cut {
            good: 0,
            line: kept.to_vec(),
        },
    }
}

/// A file system that lost its power has the length of a write before its content, which reads as NULs.
fn without_zeros(octets: &[u8]) -> &[u8] {
    let zeros = octets.iter().rev().take_while(|&&octet| octet == 0).count();
    &octets[..octets.len() - zeros]
}

/// Editors of Windows begin a file with it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What a line says by itself.
#[derive(Debug)]
enum Line {
    Blank,
    /// A name and its checksum.
    Checked(Kid),
    /// A name alone, as older versions wrote it.
    Plain(Kid),
    Damaged,
}

impl Line {
    /// Of what stands before the line break.
    fn parse(line: &[u8]) -> Self {
        let line = line.trim_ascii();
        let mut words = line.splitn(2, |&octet| octet == b' ');
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        match (name(first), second) {
            (_, None) if line.is_empty() => Self::Blank,
            (Some(name), None) if !hides_thumbprints(line) => Self::Plain(name),
            (Some(name), Some(sum)) if sum == checksum(&name).as_bytes() => Self::Checked(name),
            _ => Self::Damaged,
        }
    }

    fn checked(&self) -> Option<&Kid> {
        match self {
            Self::Checked(name) => Some(name),
            Self::Blank | Self::Plain(_) | Self::Damaged => None,
        }
    }

    fn name(self) -> Option<Kid> {
        match self {
            Self::Checked(name) | Self::Plain(name) => Some(name),
            Self::Blank | Self::Damaged => None,
        }
    }
}

/// The first line, which names no key. Beside a line with a checksum, a name that has none is damaged, also if it is the only one.
pub(super) const MARK: &str = "revoked-keys";

pub(super) fn mark() -> Kid {
    #[expect(clippy::expect_used, reason = "it is a short text")]
    MARK.parse().expect("a kid")
}

/// What a ledger holds that was begun with these names.
#[must_use]
pub fn text_of<'a>(names: impl IntoIterator<Item = &'a Kid>) -> String {
    std::iter::once(line_of(&mark()))
        .chain(names.into_iter().map(line_of))
        .collect()
}

/// A name and its checksum.
pub(super) fn line_of(name: &Kid) -> String {
    format!("{} {}\n", name.as_str(), checksum(name))
}

/// The first 32 bits of the SHA-256 of a name, in hexadecimal digits.
fn checksum(name: &Kid) -> String {
    let [a, b, c, d, ..] = sha256(name.as_str().as_bytes());
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

fn name(line: &[u8]) -> Option<Kid> {
    let line = std::str::from_utf8(line).ok().filter(|line| is_name(line))?;
    line.parse().ok()
}

/// The characters of a thumbprint: SHA-256 in base64url.
const THUMBPRINT: usize = 43;

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|octet| !octet.is_ascii_alphanumeric() && !matches!(octet, b'-' | b'_'))
}

/// The thumbprints in a damaged line, also those that lost the line end between them.
fn thumbprints_in(line: &[u8]) -> impl Iterator<Item = Kid> {
    words(line)
        .filter(|word| word.len().is_multiple_of(THUMBPRINT))
        .flat_map(|word| word.chunks(THUMBPRINT))
        .filter_map(name)
}

/// Whether a line that could be a name is rather several thumbprints, or one with something beside it, such as its checksum.
fn hides_thumbprints(line: &[u8]) -> bool {
    let beside = |word: &[u8]| word.len() == THUMBPRINT && word != line;
    let together = |word: &[u8]| word.len() > THUMBPRINT && word.len().is_multiple_of(THUMBPRINT);
    let has_sum = line
        .split_at_checked(THUMBPRINT)
        .and_then(|(print, rest)| Some((name(print)?, rest)))
        .is_some_and(|(print, rest)| !rest.is_empty() && rest.ends_with(checksum(&print).as_bytes()));
    has_sum || words(line).any(|word| beside(word) || together(word))
}

fn is_thumbprint(name: &Kid) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.as_str().len() == THUMBPRINT && name.as_str().bytes().all(is_base64url)
}

/// A thumbprint, or a kid as the versions took them that wrote kids. Any other text is a mistake in the file.
fn is_name(line: &str) -> bool {
    (1..=128).contains(&line.len())
        && line
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}
