//! Why the ledger cannot be used.

use std::path::{Path, PathBuf};

use super::content::MAX_SIZE;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused to read it.
    #[error(
        "the ledger of revoked keys {path} cannot be read: {source}; {}",
        cure_of_unreadable(.path, .source)
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
    /// Lines are no thumbprints and no kids, or do not agree with their checksum: the file is damaged, or is another file.
    #[error(
        "the ledger of revoked keys {path} is damaged: {lines} {}, the first is line {first}; take them out, and add what \
         the ledger of another node or of a backup holds beside the rest",
        if *lines == 1 { "line does not name a key with its checksum" } else { "lines do not name keys with their checksums" }
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

fn cure_of_unreadable(path: &Path, source: &std::io::Error) -> String {
    if source.kind() == std::io::ErrorKind::NotADirectory {
        let file = path.ancestors().skip(1).find(|above| above.is_file());
        return format!(
            "{} is a file and no folder: move it away, or name a file in another folder by keys.ledger_file",
            file.unwrap_or(path).display()
        );
    }
    "make the user of the server its owner (chown) with mode 0600, put the ledger of another node or of a backup in its place, or name a \
     file in another folder by keys.ledger_file"
        .to_owned()
}

impl LedgerError {
    /// Whether nothing is known of what the ledger says.
    pub(super) const fn hides_all(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::NoFile { .. } | Self::TooLarge { .. } => true,
            Self::Damaged { names_some, .. } => !*names_some,
            Self::Unwritable { .. } | Self::Exposed { .. } => false,
        }
    }
}
