//! The ledger: the keys that this node knows to be revoked, in a file outside of the database.
//!
//! A database that was set back to an old backup knows nothing of the revocations since. The ledger does, and no key that it
//! names signs or is published again. It holds one name a line: the RFC 7638 thumbprint of the revoked key material. Older
//! versions wrote kids; a line that is the kid of a key names that key too.
//!
//! A ledger that is not in order never hinders an emergency: commands go on and report it at the end. What can be read of it
//! counts. A last line that a power cut has cut short is repaired, since no command had reported it as written. Only a server start,
//! an import, a restore and a command that signs need to know what the ledger says; they are refused if none of it can be read.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::jose::jwk::{Kid, PublicJwk};

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused to read it.
    #[error(
        "the ledger of revoked keys {path} cannot be read: {source}; make the user of the server its owner (chown) with mode \
         0600, put the ledger of another node or of a backup in its place, or name a file in another folder by keys.ledger_file"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused to write it.
    #[error(
        "the ledger of revoked keys {path} cannot be written: {source}; name a file in a folder that this user may write by \
         keys.ledger_file"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could take lines out.
    #[error("the ledger of revoked keys {path} may be written by others (mode {mode:04o}); set its mode to 0600")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is a folder, a device or a pipe, which keeps no lines.
    #[error("the ledger of revoked keys {path} is not a regular file; name another file by keys.ledger_file")]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// Lines are no thumbprints and no kids: the file is damaged, or is another file.
    #[error(
        "the ledger of revoked keys {path} is damaged: {lines} {} no key, the first is line {first}; take them out, and add what \
         the ledger of another node or of a backup holds beside the rest",
        if *lines == 1 { "line names" } else { "lines name" }
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How many there are.
        lines: usize,
        /// The first of them, from 1.
        first: usize,
        /// Whether another line names a key.
        names_some: bool,
    },
    /// It is too large to be one.
    #[error(
        "the ledger of revoked keys {path} is larger than {} MiB, so it is another file or damaged; put the ledger of another node \
         or of a backup in its place, or name another file by keys.ledger_file",
        MAX_SIZE >> 20
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl LedgerError {
    /// Whether nothing is known of what the ledger says.
    const fn hides_all(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::NoFile { .. } | Self::TooLarge { .. } => true,
            Self::Damaged { names_some, .. } => !*names_some,
            Self::Unwritable { .. } | Self::Exposed { .. } => false,
        }
    }
}

/// A line has 44 octets: far more than any site revokes, and far less than memory.
const MAX_SIZE: u64 = 16 << 20;

/// The revoked keys that this node knows, in memory and in a file that only grows.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// The file that an older version wrote.
    former: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every name that is known.
    names: BTreeSet<Kid>,
    /// The names that are in the file.
    written: BTreeSet<Kid>,
    /// The file as it was when it was last read.
    seen: Option<Stamp>,
    /// What was not in order at the last look at the files.
    failure: Option<String>,
}

/// What changes when another process changes a file.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Ledger {
    /// Reads the ledger, and the names that an older version wrote into another file; a file that does not exist is an empty one.
    /// What is not in order is reported by [`failure`](Self::failure), and by each look.
    #[must_use]
    pub fn open(path: &Path, former: Option<&Path>) -> Self {
        let ledger = Self {
            path: path.to_owned(),
            former: former.map(Path::to_owned),
            state: Mutex::default(),
        };
        let read = ledger.read_all(&mut ledger.state());
        ledger.state().failure = read.err().as_ref().map(ToString::to_string);
        ledger
    }

    /// Refuses a ledger of which nothing can be read: nobody knows which keys it names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn require_readable(&self) -> Result<(), LedgerError> {
        match self.read_all(&mut self.state()) {
            Err(error) if error.hides_all() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes the names of both files; answers with what is worst about them.
    fn read_all(&self, state: &mut State) -> Result<(), LedgerError> {
        let mut worst = Ok(());
        for path in [Some(self.path.as_path()), self.former.as_deref()]
            .into_iter()
            .flatten()
        {
            let fault = match Content::read(path) {
                Ok(content) => {
                    state.names.extend(content.names);
                    content.fault
                }
                Err(error) => Some(error),
            };
            if let Some(error) = fault
                && worst
                    .as_ref()
                    .err()
                    .is_none_or(|known: &LedgerError| !known.hides_all())
            {
                worst = Err(error);
            }
        }
        worst
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this key was ever revoked, as far as this node knows: by its thumbprint, or by its kid in an old line.
    #[must_use]
    pub fn names(&self, jwk: &PublicJwk) -> bool {
        let state = self.state();
        !state.names.is_empty()
            && (state.names.contains(&jwk.kid) || jwk.material_names().iter().any(|name| state.names.contains(name)))
    }

    /// Every name that is known.
    #[must_use]
    pub fn known(&self) -> Vec<Kid> {
        self.state().names.iter().cloned().collect()
    }

    /// How many names are known that the file lacks.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        let state = self.state();
        state.names.difference(&state.written).count()
    }

    /// What was not in order at the last look: why a file could not be read or written, or is damaged; none when all is well.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Looks at the file, and appends every name that it lacks. The names are known even when the file cannot be written;
    /// the next look writes them. An empty look shows whether the file can be written.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not in order although what was missing is written.
    pub fn learn<'a>(&self, revoked: impl IntoIterator<Item = &'a Kid>) -> Result<(), LedgerError> {
        let mut state = self.state();
        state.names.extend(revoked.into_iter().cloned());
        let outcome = self.write(&mut state);
        state.failure = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    /// The same at every look at the database: a failure is an ERROR when it begins, and its end is reported.
    pub fn follow<'a>(&self, revoked: impl IntoIterator<Item = &'a Kid>) {
        let before = self.failure();
        match self.learn(revoked) {
            Err(error) if before.is_none() => tracing::error!(
                %error,
                "the ledger of revoked keys is not in order; revocations hold, but a restart on an older database would forget them"
            ),
            Ok(()) if before.is_some() => tracing::info!("the ledger of revoked keys is in order again"),
            Err(_) | Ok(()) => {}
        }
    }

    /// Whether the file can be written; leaves no trace.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn probe(&self) -> Result<(), LedgerError> {
        let is_new = !self.path.exists();
        let opened = open_for_appending(&self.path);
        if is_new && opened.is_ok() {
            let _ = std::fs::remove_file(&self.path);
        }
        opened.map(drop)
    }

    fn write(&self, state: &mut State) -> Result<(), LedgerError> {
        let unwritable = |source| LedgerError::Unwritable {
            path: self.path.clone(),
            source,
        };
        let mut file = open_for_appending(&self.path)?;
        // So that a repair takes nothing away that another process writes in this moment. A file system without locks goes without.
        let is_locked_elsewhere = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        // Another process beside this one may have written, or a person may have put another file there.
        let stamp = Stamp::from(&file.metadata().map_err(unwritable)?);
        let mut fault = None;
        let mut end = End::Whole;
        if state.seen.as_ref() != Some(&stamp) {
            state.seen = None;
            let content = Content::read(&self.path)?;
            state.written = content.names;
            (end, fault) = (content.end, content.fault);
            state.names.extend(state.written.iter().cloned());
        }
        if let End::Torn { good, .. } = end {
            if is_locked_elsewhere {
                return Err(unwritable(std::io::ErrorKind::WouldBlock.into()));
            }
            file.set_len(good).map_err(unwritable)?;
            tracing::warn!(
                path = %self.path.display(),
                "the last line of the ledger of revoked keys was cut short, as by a power cut, and is repaired; the database has that \
                 revocation, and it is written again"
            );
        }
        let missing: Vec<Kid> = state.names.difference(&state.written).cloned().collect();
        let mut text = if matches!(end, End::Unended | End::Torn { is_unended: true, .. }) {
            "\n".to_owned()
        } else {
            String::new()
        };
        for name in &missing {
            text.push_str(name.as_str());
            text.push('\n');
        }
        if text.is_empty() && matches!(end, End::Whole) {
            state.seen = fault.is_none().then_some(stamp);
        } else {
            // Read again at the next look: a write that failed may have left a part of a line.
            state.seen = None;
            // One write, so that lines of two processes do not mix.
            file.write_all(text.as_bytes()).map_err(unwritable)?;
            file.sync_all().map_err(unwritable)?;
            state.written.extend(missing);
        }
        let former = self.former.as_deref().map(Content::read).transpose()?;
        if let Some(former) = former {
            state.names.extend(former.names);
            fault = fault.or(former.fault);
        }
        fault.map_or(Ok(()), Err)
    }
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a whole line, or it is empty.
    Whole,
    /// With a name that has no line break: a process was killed, or a person wrote it.
    Unended,
    /// With octets of which no name can be made; the part before them is good.
    Torn {
        good: u64,
        /// Whether that part ends with a name that has no line break.
        is_unended: bool,
    },
}

/// What a file says.
#[derive(Debug)]
struct Content {
    names: BTreeSet<Kid>,
    end: End,
    /// What is wrong with it although it was read.
    fault: Option<LedgerError>,
}

impl Content {
    fn read(path: &Path) -> Result<Self, LedgerError> {
        let unreadable = |source| LedgerError::Unreadable {
            path: path.to_owned(),
            source,
        };
        refuse_special(path)?;
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::parse(path, &[])),
            opened => opened.map_err(unreadable)?,
        };
        let exposed = exposed(path, &file.metadata().map_err(unreadable)?);
        let mut octets = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut octets).map_err(unreadable)?;
        if octets.len() as u64 > MAX_SIZE {
            return Err(LedgerError::TooLarge { path: path.to_owned() });
        }
        let mut content = Self::parse(path, &octets);
        content.fault = content.fault.or(exposed);
        Ok(content)
    }

    fn parse(path: &Path, octets: &[u8]) -> Self {
        let (whole, last) = match octets.iter().rposition(|&octet| octet == b'\n') {
            Some(place) => octets.split_at(place + 1),
            None => (&[][..], octets),
        };
        let mut names = BTreeSet::new();
        let mut damaged = Vec::new();
        for (index, line) in whole.split(|&octet| octet == b'\n').enumerate() {
            let line = line
                .strip_prefix(BYTE_ORDER_MARK)
                .filter(|_| index == 0)
                .unwrap_or(line);
            match name(line.trim_ascii()) {
                Some(name) => {
                    names.insert(name);
                    if hides_thumbprints(line.trim_ascii()) {
                        names.extend(thumbprints_in(line));
                        damaged.push(index + 1);
                    }
                }
                None if line.trim_ascii().is_empty() => {}
                None => {
                    // What was written over a part of a line has not changed the rest of it.
                    names.extend(thumbprints_in(line));
                    damaged.push(index + 1);
                }
            }
        }
        // A file system that lost its power has the length of a write before its content, which reads as NULs.
        let zeros = last.iter().rev().take_while(|&&octet| octet == 0).count();
        let kept = &last[..last.len() - zeros];
        let end = match name(kept.trim_ascii()) {
            Some(name) => {
                names.insert(name);
                if hides_thumbprints(kept.trim_ascii()) {
                    names.extend(thumbprints_in(kept));
                    damaged.push(whole.split(|&octet| octet == b'\n').count());
                }
                if zeros == 0 {
                    End::Unended
                } else {
                    End::Torn {
                        good: (whole.len() + kept.len()) as u64,
                        is_unended: true,
                    }
                }
            }
            None if last.is_empty() => End::Whole,
            None if kept.trim_ascii().is_empty() => End::Torn {
                good: whole.len() as u64,
                is_unended: false,
            },
            None => {
                names.extend(thumbprints_in(kept));
                damaged.push(whole.split(|&octet| octet == b'\n').count());
                End::Unended
            }
        };
        let fault = damaged.first().map(|&first| LedgerError::Damaged {
            path: path.to_owned(),
            lines: damaged.len(),
            first,
            names_some: !names.is_empty(),
        });
        Self { names, end, fault }
    }
}

/// Editors of Windows begin a file with it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

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

/// Whether a line that could be a name is rather several thumbprints, or one with something beside it.
fn hides_thumbprints(line: &[u8]) -> bool {
    let beside = |word: &[u8]| word.len() == THUMBPRINT && word != line;
    let together = |word: &[u8]| word.len() > THUMBPRINT && word.len().is_multiple_of(THUMBPRINT);
    words(line).any(|word| beside(word) || together(word))
}

/// A thumbprint, or a kid as the versions took them that wrote kids. Any other text is a mistake in the file.
fn is_name(line: &str) -> bool {
    (1..=128).contains(&line.len())
        && line
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

/// A pipe would be waited for, and a device forgets.
fn refuse_special(path: &Path) -> Result<(), LedgerError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(LedgerError::NoFile { path: path.to_owned() }),
        _ => Ok(()),
    }
}

fn exposed(path: &Path, metadata: &Metadata) -> Option<LedgerError> {
    let mode = metadata.mode() & 0o777;
    let path = path.to_owned();
    (mode & 0o022 != 0).then_some(LedgerError::Exposed { path, mode })
}

/// Makes the file when it does not exist, and its folder too. A command that root runs leaves both to the user of the server,
/// which is the owner of the folder that was there.
fn open_for_appending(path: &Path) -> Result<File, LedgerError> {
    refuse_special(path)?;
    let unwritable = |source| LedgerError::Unwritable {
        path: path.to_owned(),
        source,
    };
    let is_new = !path.exists();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(unwritable)?;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(unwritable)?;
    let metadata = file.metadata().map_err(unwritable)?;
    if is_new && let Ok(owner) = std::fs::metadata(folder) {
        if owner.uid() != metadata.uid() {
            let _ = std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()));
        }
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kid(name: &str) -> Kid {
        name.parse().unwrap()
    }

    fn jwk(name: &str) -> PublicJwk {
        PublicJwk {
            kid: kid(name),
            alg: crate::jose::alg::Algorithm::Es256,
            parameters: crate::jose::jwk::Parameters::P256 {
                x: "x".repeat(43),
                y: "y".repeat(43),
            },
        }
    }

    #[test]
    fn it_only_grows_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        let (one, beside) = (Ledger::open(&path, None), Ledger::open(&path, None));
        assert!(!path.exists());
        one.learn(&[kid("a"), kid("b")]).unwrap();
        one.learn(&[kid("a")]).unwrap();
        beside.learn(&[kid("b"), kid("c")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\nc\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = Ledger::open(&path, None);
        assert_eq!(again.known(), [kid("a"), kid("b"), kid("c")]);
        assert!(again.names(&jwk("c")) && !again.names(&jwk("d")));
    }

    #[test]
    fn a_line_cut_short_swallows_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        std::fs::write(&path, "a\nb").unwrap();
        Ledger::open(&path, None).learn(&[kid("c")]).unwrap();
        assert_eq!(Ledger::open(&path, None).known(), [kid("a"), kid("b"), kid("c")]);
    }

    /// A thumbprint.
    const PRINT: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";

    #[test]
    fn what_a_power_cut_leaves_is_read_as_far_as_it_goes_and_repaired() {
        let nul = "\0".repeat(4_096);
        for (content, known, repaired) in [
            ("a\nb".to_owned(), vec!["a", "b"], "a\nb\n"),
            (format!("a\n{nul}"), vec!["a"], "a\n"),
            (format!("a\nb{nul}"), vec!["a", "b"], "a\nb\n"),
            (format!("{PRINT}\n{}{nul}", &PRINT[..20]), vec![&PRINT[..20], PRINT], ""),
            (nul.clone(), vec![], ""),
            ("a\n  ".to_owned(), vec!["a"], "a\n"),
            (
                "\u{feff}a\r\n\r\nb\r\n".to_owned(),
                vec!["a", "b"],
                "\u{feff}a\r\n\r\nb\r\n",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("revoked-kids");
            std::fs::write(&path, &content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            let ledger = Ledger::open(&path, None);
            assert_eq!(ledger.failure(), None, "{content:?}");
            ledger.require_readable().unwrap();
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                content,
                "reading changes nothing"
            );
            ledger.learn(&[]).unwrap();
            let mut expected: Vec<Kid> = known.into_iter().map(kid).collect();
            expected.sort();
            assert_eq!(ledger.known(), expected, "{content:?}");
            if !repaired.is_empty() {
                assert_eq!(std::fs::read_to_string(&path).unwrap(), repaired, "{content:?}");
            }
            ledger.learn(&[kid("new")]).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.ends_with("new\n") && !text.contains('\0'), "{text:?}");
            expected.push(kid("new"));
            expected.sort();
            let again = Ledger::open(&path, None);
            assert_eq!((again.known(), again.failure()), (expected, None), "{content:?}");
        }
    }

    #[test]
    fn a_damaged_ledger_names_what_can_be_read_is_written_and_stays_reported() {
        let lines = |lines: &[&[u8]]| lines.join(&b'\n');
        for (content, first) in [
            (lines(&[PRINT.as_bytes(), b"\xff\xfe\x80 garbage", b""]), 2),
            (lines(&[b"\0\0\0\0", PRINT.as_bytes(), b""]), 1),
            (lines(&[b"no kid\x07", PRINT.as_bytes(), b""]), 1),
            (lines(&[&[b"\0\0\xe4", PRINT.as_bytes()].concat(), b""]), 1),
            (lines(&[PRINT.as_bytes(), b"\x80\x80"]), 2),
            (lines(&[PRINT.as_bytes(), b"{\"not\": \"a ledger\"}", b""]), 2),
            // All of it could be a name, but is a thumbprint with something beside it, or two of them.
            (lines(&[&[PRINT.as_bytes(), b","].concat(), b""]), 1),
            (lines(&[b"a", &[PRINT.as_bytes(), PRINT.as_bytes()].concat(), b""]), 2),
            (lines(&[b"a", &[PRINT.as_bytes(), b"*", PRINT.as_bytes()].concat()]), 2),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("revoked-kids");
            std::fs::write(&path, &content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            let ledger = Ledger::open(&path, None);
            ledger.require_readable().unwrap();
            for _ in 0..2 {
                let failure = ledger.failure().unwrap();
                assert!(failure.contains(&format!("the first is line {first};")), "{failure}");
                assert!(ledger.known().contains(&kid(PRINT)), "{content:?}");
                assert!(ledger.learn(&[kid("new")]).is_err());
                assert_eq!(ledger.unwritten(), 0);
            }
            let written = std::fs::read(&path).unwrap();
            assert!(written.starts_with(&content) && written.ends_with(b"\nnew\n"));
            // A person takes out what is damaged.
            std::fs::write(&path, format!("{PRINT}\nnew\n")).unwrap();
            ledger.learn(&[]).unwrap();
            assert_eq!(ledger.failure(), None);
        }
    }

    #[test]
    fn a_ledger_of_which_nothing_can_be_read_hinders_no_emergency_and_refuses_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        let below_a_file = folder.path().join("file/revoked-kids");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let sparse = folder.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        std::fs::write(&path, "\u{7}\n\u{7}\n").unwrap();
        for path in [
            &path,
            folder.path(),
            Path::new("/dev/null"),
            &link,
            &below_a_file,
            &sparse,
        ] {
            let ledger = Ledger::open(path, None);
            let error = ledger.require_readable().unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert_eq!(ledger.failure(), Some(error));
            assert!(ledger.learn(&[kid("a")]).is_err());
            assert!(ledger.names(&jwk("a")), "it is known in memory");
        }
        let nowhere = Ledger::open(Path::new("/proc/nowhere/revoked-kids"), None);
        nowhere.require_readable().unwrap();
        assert!(nowhere.learn(&[kid("a")]).is_err());
        assert!(nowhere.names(&jwk("a")));
        // The file of an older version counts in the same way.
        let whole = folder.path().join("whole");
        std::fs::write(&path, "\u{7}\n").unwrap();
        let with_former = Ledger::open(&whole, Some(&path));
        assert!(with_former.require_readable().is_err() && with_former.failure().is_some());
        std::fs::write(&path, "former\n").unwrap();
        assert!(with_former.require_readable().is_ok());
        with_former.learn(&[]).unwrap();
        with_former.learn(&[]).unwrap();
        assert_eq!(std::fs::read_to_string(&whole).unwrap(), "former\n");
    }

    #[test]
    fn what_others_may_write_is_read_written_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        std::fs::write(&path, "a\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap();
        let ledger = Ledger::open(&path, None);
        ledger.require_readable().unwrap();
        assert!(ledger.names(&jwk("a")));
        let answer = ledger.learn(&[kid("b")]);
        assert!(
            matches!(answer, Err(LedgerError::Exposed { mode: 0o620, .. })),
            "{answer:?}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\n");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        ledger.learn(&[]).unwrap();
        assert_eq!(ledger.failure(), None);
    }

    #[test]
    fn a_key_is_named_by_its_thumbprint_whatever_its_kid() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("revoked-kids"), None);
        assert!(!ledger.names(&jwk("one")));
        ledger.learn(&[jwk("one").thumbprint()]).unwrap();
        assert!(ledger.names(&jwk("one")) && ledger.names(&jwk("another")));
    }

    #[test]
    fn what_could_not_be_written_is_written_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let (state, path) = (folder.path().join("state"), folder.path().join("state/revoked-kids"));
        let ledger = Ledger::open(&path, None);
        ledger.learn(&[kid("a")]).unwrap();
        // A file where the folder was, as when a mount is gone.
        std::fs::rename(&state, folder.path().join("away")).unwrap();
        std::fs::write(&state, "").unwrap();
        assert!(ledger.learn(&[]).is_err(), "an empty look tells too");
        assert!(ledger.learn(&[kid("b")]).is_err());
        assert!(ledger.names(&jwk("b")));
        assert_eq!(ledger.unwritten(), 1);
        assert!(ledger.failure().unwrap().contains("keys.ledger_file"));
        std::fs::remove_file(&state).unwrap();
        ledger.learn(&[]).unwrap();
        assert_eq!((ledger.unwritten(), ledger.failure()), (0, None));
        // Another file than before: all that is known is in it.
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_line_that_a_person_adds_is_honoured_and_one_that_is_lost_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        let ledger = Ledger::open(&path, None);
        ledger.learn(&[kid("a")]).unwrap();
        std::fs::write(&path, "added\n").unwrap();
        ledger.learn(&[]).unwrap();
        assert!(ledger.names(&jwk("added")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "added\na\n");
    }

    #[test]
    fn a_probe_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        let ledger = Ledger::open(&path, None);
        ledger.probe().unwrap();
        assert!(!path.exists());
        ledger.learn(&[kid("a")]).unwrap();
        ledger.probe().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n");
    }
}
