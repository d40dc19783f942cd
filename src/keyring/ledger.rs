//! The ledger: the keys that this node knows to be revoked, in a file outside of the database.
//!
//! A database that was set back to an old backup knows nothing of the revocations since. The ledger does, and no key that it
//! names signs or is published again. It holds one name a line: the RFC 7638 thumbprint of the revoked key material. Older
//! versions wrote kids; a line that is the kid of a key names that key too.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::jose::jwk::{Kid, PublicJwk};

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused.
    #[error(
        "the ledger of revoked keys {path} cannot be {what}: {source}; name a file in a folder that this user may write by \
         keys.ledger_file"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
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
    /// A line is no thumbprint and no kid.
    #[error("line {line} of the ledger of revoked keys {path} is no thumbprint and no kid; write one a line")]
    NoKid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// The revoked keys that this node knows, in memory and in a file that only grows.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every name that is known.
    names: BTreeSet<Kid>,
    /// The names that are in the file.
    written: BTreeSet<Kid>,
    /// Whether the last line of the file is whole: a process that was killed may have left a part of one.
    is_whole: bool,
    /// The file as it was when it was last read.
    seen: Option<Stamp>,
    /// Why the last look at the file failed.
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
    /// Reads the ledger; a file that does not exist is an empty one.
    ///
    /// # Errors
    /// When it cannot be read, others may write it, or a line is no thumbprint and no kid.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let (names, is_whole) = read(path)?;
        let state = State {
            written: names.clone(),
            names,
            is_whole,
            ..State::default()
        };
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Also takes the names of a file that an older version wrote; a file that does not exist has none.
    ///
    /// # Errors
    /// When that file cannot be read, others may write it, or a line is no thumbprint and no kid.
    pub fn with_names_of(self, former: &Path) -> Result<Self, LedgerError> {
        let (names, _) = read(former)?;
        self.state().names.extend(names);
        Ok(self)
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

    /// Why the file could not be read or written at the last look; none when all is well.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Looks at the file, and appends every name that it lacks. The names are known even when the file cannot be written;
    /// the next look writes them. An empty look shows whether the file can be written.
    ///
    /// # Errors
    /// When the file cannot be read or written.
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
                "the ledger of revoked keys cannot be kept; revocations hold, but a restart on an older database would forget them"
            ),
            Ok(()) if before.is_some() => tracing::info!("the ledger of revoked keys is kept again"),
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
        let unwritable = |source| self.failed("written", source);
        let mut file = open_for_appending(&self.path)?;
        // Another process beside this one may have written, or a person may have put another file there.
        let stamp = Stamp::from(&file.metadata().map_err(unwritable)?);
        if state.seen.as_ref() != Some(&stamp) {
            state.seen = None;
            (state.written, state.is_whole) = read(&self.path)?;
            state.names.extend(state.written.iter().cloned());
        }
        let missing: Vec<Kid> = state.names.difference(&state.written).cloned().collect();
        if missing.is_empty() {
            state.seen = Some(stamp);
            return Ok(());
        }
        let mut text = if state.is_whole { String::new() } else { "\n".to_owned() };
        for name in &missing {
            text.push_str(name.as_str());
            text.push('\n');
        }
        // Read again at the next look: a write that failed may have left a part of a line.
        state.seen = None;
        // One write, so that lines of two processes do not mix.
        file.write_all(text.as_bytes()).map_err(unwritable)?;
        file.sync_all().map_err(unwritable)?;
        state.written.extend(missing);
        Ok(())
    }

    fn failed(&self, what: &'static str, source: std::io::Error) -> LedgerError {
        LedgerError::Io {
            path: self.path.clone(),
            what,
            source,
        }
    }
}

/// The names in the file, and whether its last line is whole.
fn read(path: &Path) -> Result<(BTreeSet<Kid>, bool), LedgerError> {
    let unreadable = |source| LedgerError::Io {
        path: path.to_owned(),
        what: "read",
        source,
    };
    refuse_special(path)?;
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(error)),
        Ok(mut file) => {
            refuse_exposed(path, &file.metadata().map_err(unreadable)?)?;
            file.read_to_string(&mut text).map_err(unreadable)?;
        }
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let names = lines.map(|(index, line)| {
        let no_kid = || LedgerError::NoKid {
            path: path.to_owned(),
            line: index + 1,
        };
        let name = Some(line.trim()).filter(|line| is_name(line)).ok_or_else(no_kid)?;
        name.parse().map_err(|_| no_kid())
    });
    Ok((
        names.collect::<Result<_, _>>()?,
        text.is_empty() || text.ends_with('\n'),
    ))
}

/// A thumbprint, or a kid as the versions took them that wrote kids. Any other text is a mistake in the file.
fn is_name(line: &str) -> bool {
    line.len() <= 128
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

fn refuse_exposed(path: &Path, metadata: &Metadata) -> Result<(), LedgerError> {
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let path = path.to_owned();
    Err(LedgerError::Exposed { path, mode })
}

/// Makes the file when it does not exist, and its folder too. A command that root runs leaves both to the user of the server,
/// which is the owner of the folder that was there.
fn open_for_appending(path: &Path) -> Result<File, LedgerError> {
    refuse_special(path)?;
    let unwritable = |source| LedgerError::Io {
        path: path.to_owned(),
        what: "written",
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
    refuse_exposed(path, &metadata)?;
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
        let (one, beside) = (Ledger::open(&path).unwrap(), Ledger::open(&path).unwrap());
        assert!(!path.exists());
        one.learn(&[kid("a"), kid("b")]).unwrap();
        one.learn(&[kid("a")]).unwrap();
        beside.learn(&[kid("b"), kid("c")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\nc\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = Ledger::open(&path).unwrap();
        assert_eq!(again.known(), [kid("a"), kid("b"), kid("c")]);
        assert!(again.names(&jwk("c")) && !again.names(&jwk("d")));
    }

    #[test]
    fn a_line_cut_short_swallows_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        std::fs::write(&path, "a\nb").unwrap();
        Ledger::open(&path).unwrap().learn(&[kid("c")]).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().known(), [kid("a"), kid("b"), kid("c")]);
    }

    #[test]
    fn what_others_may_write_or_nobody_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        std::fs::write(&path, "a\nno kid\u{7}\n").unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::NoKid { line: 2, .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap();
        assert!(matches!(
            Ledger::open(&path),
            Err(LedgerError::Exposed { mode: 0o620, .. })
        ));
        assert!(Ledger::open(Path::new("/dev/null")).is_err());
        assert!(Ledger::open(folder.path()).is_err());
        let below_a_file = folder.path().join("file/revoked-kids");
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(Ledger::open(&below_a_file).is_err());
        let nowhere = Ledger::open(Path::new("/proc/nowhere/revoked-kids")).unwrap();
        assert!(nowhere.learn(&[kid("a")]).is_err());
        assert!(nowhere.names(&jwk("a")));
    }

    #[test]
    fn a_key_is_named_by_its_thumbprint_whatever_its_kid() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("revoked-kids")).unwrap();
        assert!(!ledger.names(&jwk("one")));
        ledger.learn(&[jwk("one").thumbprint()]).unwrap();
        assert!(ledger.names(&jwk("one")) && ledger.names(&jwk("another")));
    }

    #[test]
    fn what_could_not_be_written_is_written_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let (state, path) = (folder.path().join("state"), folder.path().join("state/revoked-kids"));
        let ledger = Ledger::open(&path).unwrap();
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
        let ledger = Ledger::open(&path).unwrap();
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
        let ledger = Ledger::open(&path).unwrap();
        ledger.probe().unwrap();
        assert!(!path.exists());
        ledger.learn(&[kid("a")]).unwrap();
        ledger.probe().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n");
    }
}
