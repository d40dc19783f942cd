//! The ledger: the keys that this node knows to be revoked, in a file outside of the database.
//!
//! A database that was set back to an old backup knows nothing of the revocations since. The ledger does, and no key that it
//! names signs or is published again. It holds one name a line: the RFC 7638 thumbprint of the revoked key material, and behind it a
//! checksum, so that a line that was changed or cut is not taken for the name of another key. Older versions wrote thumbprints without
//! a checksum, and before that kids; a line that is the kid of a key names that key too. All of them are written again with a checksum.
//!
//! A ledger that is not in order never hinders an emergency: commands go on and report it at the end. What can be read of it
//! counts. A last line that a power cut has cut short is repaired if the database has that revocation, since no command had reported it as
//! written. Only a server start, an import, a restore and a command that signs need to know what the ledger says; they are refused if
//! none of it can be read.

mod content;
mod error;

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::jose::jwk::{Kid, PublicJwk};

use content::{Content, End, line_of, mark};

pub use content::text_of;
pub use error::LedgerError;

/// The room that is kept on the disk behind the last line, in bytes, and the least of it before more is kept. A line has about 60.
const ROOM: u64 = 64 << 10;
const LEAST_ROOM: u64 = 16 << 10;

/// The unit in which a file's blocks are counted, in bytes.
const BLOCK: u64 = 512;

/// The revoked keys that this node knows, in memory and in a file that only grows.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// The file that an older version wrote.
    former: Option<PathBuf>,
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    /// Every name that is known.
    names: BTreeSet<Kid>,
    /// What may be the name of a key in a damaged line: it counts, but is not written again.
    doubtful: BTreeSet<Kid>,
    /// The names that are in the file with their checksum.
    written: BTreeSet<Kid>,
    /// The file as it was when it was last read.
    seen: Option<Stamp>,
    /// What was not in order at the last look at the files.
    failure: Option<String>,
    /// Whether the log says that something is not in order.
    is_reported: bool,
}

/// What changes when another process changes a file.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Also when its mode or its owner changes.
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
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
    fn read_all(&self, state: &mut LedgerState) -> Result<(), LedgerError> {
        let mut worst = Ok(());
        for path in [Some(self.path.as_path()), self.former.as_deref()]
            .into_iter()
            .flatten()
        {
            let fault = match Content::read(path) {
                Ok(content) => {
                    state.take(&content);
                    content.fault(path)
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

    fn state(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether neither its file nor that of an older version exists. Both count as empty then.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        !self.path.exists() && self.former.as_ref().is_none_or(|former| !former.exists())
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
        let is_named = |name: &Kid| state.names.contains(name) || state.doubtful.contains(name);
        !(state.names.is_empty() && state.doubtful.is_empty())
            && (is_named(&jwk.kid) || jwk.material_names().iter().any(is_named))
    }

    /// Every name that is known.
    #[must_use]
    pub fn known(&self) -> Vec<Kid> {
        let state = self.state();
        state.names.union(&state.doubtful).cloned().collect()
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
        let outcome = self.learn(revoked);
        let was_reported = std::mem::replace(&mut self.state().is_reported, outcome.is_err());
        match outcome {
            Err(error) if !was_reported => tracing::error!(
                %error,
                "the ledger of revoked keys is not in order; revocations hold, but a restart on an older database would forget them"
            ),
            Ok(()) if was_reported => tracing::info!("the ledger of revoked keys is in order again"),
            Err(_) | Ok(()) => {}
        }
    }

    /// Whether the file can be written; leaves no trace.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn probe(&self) -> Result<(), LedgerError> {
        let is_new = !self.path.exists();
        let opened = open_for_appending(&self.path).and_then(|file| self.reserve(&file));
        if is_new && opened.is_ok() {
            let _ = std::fs::remove_file(&self.path);
        }
        opened
    }

    /// Keeps room on the disk for the next lines: a disk that fills up must not lose a revocation, and a look is to find out that
    /// it could. A file system that keeps none is asked when a line is written.
    fn reserve(&self, file: &File) -> Result<(), LedgerError> {
        let unwritable = |source| LedgerError::Unwritable {
            path: self.path.clone(),
            source,
        };
        let metadata = file.metadata().map_err(unwritable)?;
        // It changes the time of the file, so it is not done at every look.
        if metadata.blocks() * BLOCK >= metadata.len() + LEAST_ROOM {
            return Ok(());
        }
        match fallocate(file, FallocateFlags::KEEP_SIZE, metadata.len(), ROOM) {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(unwritable(errno.into())),
            _ => Ok(()),
        }
    }

    fn write(&self, state: &mut LedgerState) -> Result<(), LedgerError> {
        let unwritable = |source| LedgerError::Unwritable {
            path: self.path.clone(),
            source,
        };
        let mut file = open_for_appending(&self.path)?;
        let room = self.reserve(&file);
        // So that a repair takes nothing away that another process writes in this moment. A file system without locks goes without.
        let is_locked_elsewhere = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        // Another process beside this one may have written, or a person may have put another file there.
        let stamp = Stamp::from(&file.metadata().map_err(unwritable)?);
        let mut content = Content::default();
        if state.seen.as_ref() != Some(&stamp) {
            state.seen = None;
            content = Content::read(&self.path)?;
            state.written.clone_from(&content.checked);
            state.take(&content);
        }
        let missing: Vec<Kid> = state.names.difference(&state.written).cloned().collect();
        // What was cut short is a line that this write repeats, or nobody knows what it was.
        let is_repeated = |line: &[u8]| missing.iter().any(|name| line_of(name).as_bytes().starts_with(line));
        if let End::Cut { good, line } = &content.end
            && is_repeated(line)
        {
            content.end = End::Torn {
                good: *good,
                is_unended: false,
            };
        }
        if let End::Torn { good, .. } = content.end {
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
        let mut text = match content.end {
            End::Unended | End::Torn { is_unended: true, .. } => "\n",
            End::Cut { .. } if !missing.is_empty() => "\n",
            End::Whole | End::Cut { .. } | End::Torn { .. } => "",
        }
        .to_owned();
        let mark = mark();
        if !missing.is_empty() && !state.written.contains(&mark) {
            text.push_str(&line_of(&mark));
            state.written.insert(mark);
        }
        text.extend(missing.iter().map(line_of));
        let mut fault = content.fault(&self.path);
        if text.is_empty() && matches!(content.end, End::Whole) {
            state.seen = fault.is_none().then_some(stamp);
        } else {
            // Read again at the next look: a write that failed may have left a part of a line.
            state.seen = None;
            // One write, so that lines of two processes do not mix.
            file.write_all(text.as_bytes()).map_err(unwritable)?;
            file.sync_all().map_err(unwritable)?;
            state.written.extend(missing);
        }
        room?;
        if let Some(former) = &self.former {
            let content = Content::read(former)?;
            state.take(&content);
            fault = fault.or_else(|| content.fault(former));
        }
        fault.map_or(Ok(()), Err)
    }
}

impl LedgerState {
    fn take(&mut self, content: &Content) {
        self.names.extend(content.names.iter().cloned());
        self.doubtful.extend(content.doubtful.iter().cloned());
    }
}

/// A pipe would be waited for, and a device forgets.
fn refuse_special(path: &Path) -> Result<(), LedgerError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(LedgerError::NoFile { path: path.to_owned() }),
        _ => Ok(()),
    }
}

fn exposed(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.mode() & 0o777;
    (mode & 0o022 != 0).then_some(mode)
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

    use super::content::MARK;
    use super::*;

    fn kid(name: &str) -> Kid {
        name.parse().unwrap()
    }

    fn jwk(name: &str) -> PublicJwk {
        PublicJwk {
            kid: kid(name),
            alg: crate::jose::alg::Algorithm::Es256,
            parameters: crate::jose::jwk::KeyParameters::P256 {
                x: "x".repeat(43),
                y: "y".repeat(43),
            },
        }
    }

    fn lines(names: &[&str]) -> String {
        text_of(&names.iter().map(|name| kid(name)).collect::<Vec<_>>())
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
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines(&["a", "b", "c"]));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = Ledger::open(&path, None);
        assert_eq!(again.known(), [kid("a"), kid("b"), kid("c")]);
        assert!(again.names(&jwk("c")) && !again.names(&jwk("d")));
    }

    #[test]
    fn a_line_cut_short_swallows_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        std::fs::write(&path, format!("{PRINT}\nb")).unwrap();
        let _ = Ledger::open(&path, None).learn(&[kid("c")]);
        assert_eq!(Ledger::open(&path, None).known(), [kid(PRINT), kid("b"), kid("c")]);
    }

    /// A thumbprint.
    const PRINT: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
    /// Another one.
    const OTHER: &str = "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U";

    fn ledger_of(folder: &Path, content: &[u8]) -> Ledger {
        let path = folder.join("revoked-kids");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        Ledger::open(&path, None)
    }

    #[test]
    fn what_earlier_versions_wrote_is_read_and_written_again_with_checksums() {
        let folder = tempfile::tempdir().unwrap();
        for content in [
            format!("{PRINT}\nmy-kid\n"),
            format!("\u{feff}{PRINT}\r\n\r\nmy-kid\r\n"),
            format!("my-kid\n{PRINT}"),
        ] {
            let ledger = ledger_of(folder.path(), content.as_bytes());
            assert_eq!(ledger.failure(), None, "{content:?}");
            let text = || std::fs::read_to_string(ledger.path()).unwrap();
            assert_eq!(text(), content, "reading changes nothing");
            for _ in 0..2 {
                ledger.learn(&[]).unwrap();
                let end = if content.ends_with('\n') { "" } else { "\n" };
                assert_eq!(text(), format!("{content}{end}{}", lines(&[PRINT, "my-kid"])));
            }
            let again = Ledger::open(ledger.path(), None);
            assert_eq!(
                (again.known(), again.failure()),
                (vec![kid(PRINT), kid("my-kid")], None)
            );
        }
    }

    /// One flipped bit, at any place, of a ledger that has one line, or several.
    #[test]
    fn no_flipped_bit_loses_a_revocation_silently() {
        let folder = tempfile::tempdir().unwrap();
        for names in [&[PRINT][..], &[PRINT, OTHER], &[OTHER, PRINT, "my-kid"]] {
            let whole = lines(names).into_bytes();
            for bit in 0..whole.len() * 8 {
                let mut content = whole.clone();
                content[bit / 8] ^= 1 << (bit % 8);
                let ledger = ledger_of(folder.path(), &content);
                let told = (ledger.failure(), ledger.learn(&[]).err().map(|error| error.to_string()));
                let text = content.escape_ascii();
                let known = ledger.known();
                let is_known = names.iter().all(|name| known.contains(&kid(name)));
                assert!(
                    is_known || matches!(&told, (Some(opened), Some(_)) if opened.contains("damaged")),
                    "{text}: {told:?}"
                );
                // It stays reported until a person acts.
                assert_eq!(ledger.learn(&[kid("new")]).is_ok(), told.1.is_none(), "{text}");
                assert_eq!(
                    Ledger::open(ledger.path(), None).failure().is_none(),
                    told.1.is_none(),
                    "{text}"
                );
            }
        }
    }

    /// A line of which any part was cut out, in the middle and at the end, with its line break and without.
    #[test]
    fn no_cut_line_loses_a_revocation_silently() {
        let folder = tempfile::tempdir().unwrap();
        for names in [&[PRINT][..], &[OTHER, PRINT], &[OTHER, PRINT, "my-kid"]] {
            let whole = lines(names).into_bytes();
            let line = line_of(&kid(PRINT)).len();
            let mark = line_of(&kid(MARK)).len();
            let at = mark + if names[0] == PRINT { 0 } else { line };
            for from in 0..line {
                for to in from + 1..=line {
                    let mut content = whole.clone();
                    content.drain(at + from..at + to);
                    let ledger = ledger_of(folder.path(), &content);
                    let text = content.escape_ascii();
                    let is_known = ledger.known().contains(&kid(PRINT));
                    let is_gone = from == 0 && to >= line - 1;
                    let opened = ledger.failure();
                    let _ = ledger.learn(&[]);
                    let is_told = opened.is_some() && ledger.failure().is_some();
                    assert!(
                        is_known || is_told || is_gone,
                        "{text}: {opened:?} {:?}",
                        ledger.failure()
                    );
                    // The database has it.
                    let _ = ledger.learn(&[kid(PRINT)]);
                    assert!(
                        Ledger::open(ledger.path(), None).known().contains(&kid(PRINT)),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_a_power_cut_leaves_is_repaired_if_the_database_has_it() {
        let nul = "\0".repeat(4_096);
        let (first, second) = (lines(&[OTHER]), line_of(&kid(PRINT)));
        for cut in 1..second.len() {
            for zeros in ["", &nul] {
                let folder = tempfile::tempdir().unwrap();
                let content = format!("{first}{}{zeros}", &second[..cut]);
                let ledger = ledger_of(folder.path(), content.as_bytes());
                ledger.require_readable().unwrap();
                ledger.learn(&[kid(PRINT)]).unwrap();
                let text = std::fs::read_to_string(ledger.path()).unwrap();
                assert!(text.ends_with(&second) && !text.contains('\0'), "{content:?}: {text:?}");
                let again = Ledger::open(ledger.path(), None);
                assert_eq!(
                    (again.known(), again.failure()),
                    (vec![kid(PRINT), kid(OTHER)], None),
                    "{content:?}"
                );
                // A revocation that the database does not have.
                let ledger = ledger_of(folder.path(), content.as_bytes());
                let outcome = ledger.learn(&[kid("new")]);
                let is_known = ledger.state().names.contains(&kid(PRINT));
                assert!(is_known || outcome.is_err(), "{content:?}");
            }
        }
        for (content, known) in [
            (format!("{first}{nul}"), vec![OTHER]),
            (format!("{first}  "), vec![OTHER]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let ledger = ledger_of(folder.path(), content.as_bytes());
            assert_eq!(ledger.failure(), None, "{content:?}");
            ledger.learn(&[]).unwrap();
            assert_eq!(
                std::fs::read_to_string(ledger.path()).unwrap(),
                lines(&known),
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_damaged_ledger_names_what_can_be_read_is_written_and_stays_reported() {
        let joined = |lines: &[&[u8]]| lines.join(&b'\n');
        for (content, first) in [
            (joined(&[PRINT.as_bytes(), b"\xff\xfe\x80 garbage", b""]), 2),
            (joined(&[b"\0\0\0\0", PRINT.as_bytes(), b""]), 1),
            (joined(&[b"no kid\x07", PRINT.as_bytes(), b""]), 1),
            (joined(&[&[b"\0\0\xe4", PRINT.as_bytes()].concat(), b""]), 1),
            (joined(&[PRINT.as_bytes(), b"\x80\x80"]), 2),
            (joined(&[PRINT.as_bytes(), b"{\"not\": \"a ledger\"}", b""]), 2),
            // All of it could be a name, but is a thumbprint with something beside it, or two of them.
            (joined(&[&[PRINT.as_bytes(), b","].concat(), b""]), 1),
            (joined(&[b"a", &[PRINT.as_bytes(), PRINT.as_bytes()].concat(), b""]), 2),
            (joined(&[b"a", &[PRINT.as_bytes(), b"*", PRINT.as_bytes()].concat()]), 2),
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
            assert!(written.starts_with(&content) && written.ends_with(line_of(&kid("new")).as_bytes()));
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
        File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
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
        let on_disk = std::fs::metadata(&sparse).unwrap().blocks() * BLOCK;
        assert!(on_disk <= 2 * ROOM, "room for {on_disk} bytes is taken for holes");
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
        assert_eq!(std::fs::read_to_string(&whole).unwrap(), lines(&["former"]));
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
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("a\n{}", lines(&["a", "b"]))
        );
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        ledger.learn(&[]).unwrap();
        assert_eq!(ledger.failure(), None);
        // Its content and its times stay.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let answer = ledger.learn(&[]);
        assert!(
            matches!(answer, Err(LedgerError::Exposed { mode: 0o666, .. })),
            "{answer:?}"
        );
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
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines(&["a", "b"]));
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
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("added\n{}", lines(&["a", "added"]))
        );
        // Beside lines with checksums a name alone counts too, but may be what a damaged line became.
        std::fs::write(&path, format!("{}by-hand\n{OTHER}\n", lines(&["a"]))).unwrap();
        assert!(ledger.learn(&[]).is_err());
        assert!(ledger.names(&jwk("by-hand")) && ledger.names(&jwk(OTHER)));
        // An earlier version that runs beside this one wrote what the database knows.
        assert!(ledger.learn(&[kid("by-hand")]).is_err());
        ledger.learn(&[kid(OTHER)]).unwrap_err();
        ledger.learn(&[]).unwrap();
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
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines(&["a"]));
    }
}
