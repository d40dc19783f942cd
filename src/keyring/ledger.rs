//! The ledger: the revoked kids that this node has learnt of, in a file beside the master key.
//!
//! A database that was set back to an old backup knows nothing of the revocations since. The ledger does, and what it
//! names never signs and is never published again.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::jose::jwk::Kid;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused.
    #[error("the ledger of revoked kids {path} cannot be {what}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could take lines out.
    #[error("the ledger of revoked kids {path} may be written by others (mode {mode:04o}); set its mode to 0600")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line is no kid.
    #[error("line {line} of the ledger of revoked kids {path} is no kid; write one kid a line")]
    NoKid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// The revoked kids that this node knows, in memory and in a file that only grows.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    kids: Mutex<BTreeSet<Kid>>,
}

impl Ledger {
    /// Reads the ledger; a file that does not exist is an empty one.
    ///
    /// # Errors
    /// When it cannot be read, others may write it, or a line is no kid.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let (kids, _) = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            kids: Mutex::new(kids),
        })
    }

    /// Whether this kid was ever revoked, as far as this node knows.
    #[must_use]
    pub fn names(&self, kid: &Kid) -> bool {
        self.kids.lock().unwrap_or_else(PoisonError::into_inner).contains(kid)
    }

    /// Every kid it names.
    #[must_use]
    pub fn kids(&self) -> Vec<Kid> {
        let kids = self.kids.lock().unwrap_or_else(PoisonError::into_inner);
        kids.iter().cloned().collect()
    }

    /// Appends what it does not name yet. In memory they are known even when the file cannot be written.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn learn<'a>(&self, revoked: impl IntoIterator<Item = &'a Kid>) -> Result<(), LedgerError> {
        let new: Vec<Kid> = {
            let mut kids = self.kids.lock().unwrap_or_else(PoisonError::into_inner);
            revoked
                .into_iter()
                .filter(|&kid| kids.insert(kid.clone()))
                .cloned()
                .collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        // Another process beside this one may have written them already.
        let (written, whole) = read(&self.path)?;
        let mut text = if whole { String::new() } else { "\n".to_owned() };
        for kid in new.iter().filter(|kid| !written.contains(kid)) {
            text.push_str(kid.as_str());
            text.push('\n');
        }
        append(&self.path, &text).map_err(|source| LedgerError::Io {
            path: self.path.clone(),
            what: "written",
            source,
        })
    }
}

/// The kids in the file, and whether its last line is whole: a process that was killed may have left a part of one.
fn read(path: &Path) -> Result<(BTreeSet<Kid>, bool), LedgerError> {
    let unreadable = |source| LedgerError::Io {
        path: path.to_owned(),
        what: "read",
        source,
    };
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(error)),
        Ok(mut file) => {
            let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
            if mode & 0o022 != 0 {
                let path = path.to_owned();
                return Err(LedgerError::Exposed { path, mode });
            }
            file.read_to_string(&mut text).map_err(unreadable)?;
        }
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let kids = lines.map(|(index, line)| {
        line.trim().parse().map_err(|_| LedgerError::NoKid {
            path: path.to_owned(),
            line: index + 1,
        })
    });
    Ok((kids.collect::<Result<_, _>>()?, text.is_empty() || text.ends_with('\n')))
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // One write, so that lines of two processes do not mix.
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kid(name: &str) -> Kid {
        name.parse().unwrap()
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
        assert_eq!(again.kids(), [kid("a"), kid("b"), kid("c")]);
        assert!(again.names(&kid("c")) && !again.names(&kid("d")));
    }

    #[test]
    fn a_line_cut_short_swallows_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked-kids");
        std::fs::write(&path, "a\nb").unwrap();
        Ledger::open(&path).unwrap().learn(&[kid("c")]).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().kids(), [kid("a"), kid("b"), kid("c")]);
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
        let nowhere = Ledger::open(&folder.path().join("nowhere/revoked-kids")).unwrap();
        assert!(nowhere.learn(&[kid("a")]).is_err());
        assert!(nowhere.names(&kid("a")));
    }
}
