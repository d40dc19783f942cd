//! Whether the files that SQLite has open are those at its path. A file that was replaced, moved or deleted lives on as long as the server,
//! and what is written to it is lost with the process.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Db, StoreError};

/// What SQLite keeps beside its file while it is open.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
/// What this process has open, one link a file. Linux has it.
const OPEN_FILES: &str = "/proc/self/fd";
/// What Linux appends to the target of such a link once no folder names the file any more.
const DELETED: &str = " (deleted)";
/// What follows from a file that is not the open one.
const IS_LOST: &str = "what is written now is lost when the server stops. If the file was moved, move it back; else stop the server, put the \
                       file there that is to be used, or restore a backup, and start the server";
/// What follows from a link that was turned.
const IS_ELSEWHERE: &str =
    "commands, and the server after its next start, use what is there now. Turn the link back, or restart the server";

/// The device of a file and its number there, which no other file has as long as it is open.
type FileIdentity = (u64, u64);

/// The file that was opened.
#[derive(Debug)]
pub struct SqliteFile {
    /// Where the settings say it is. A link may be on the way.
    configured: PathBuf,
    /// Where it was when it was opened, without links.
    path: PathBuf,
    identity: FileIdentity,
    /// Those beside it, as far as this process has opened them.
    companions: Mutex<[Option<FileIdentity>; COMPANIONS.len()]>,
}

/// A file that this process has open.
struct OpenFile {
    identity: FileIdentity,
    target: PathBuf,
}

impl SqliteFile {
    /// The file that is at this path before it is opened.
    pub(super) fn at(configured: &Path) -> io::Result<Self> {
        let path = configured.canonicalize()?;
        Ok(Self {
            configured: std::path::absolute(configured)?,
            identity: identity(&path)?,
            path,
            companions: Mutex::default(),
        })
    }

    /// Where it is, without links: SQLite opens it there again for each connection.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a connection to another file, whose rows would be mixed with those of the first one.
    pub(super) fn require_same(&self) -> Result<(), sqlx::Error> {
        match self.change_of_file() {
            Some(change) => Err(sqlx::Error::Io(io::Error::other(change))),
            None => Ok(()),
        }
    }

    /// Remembers which files are beside it: call it while a connection is open.
    pub(super) fn remember_companions(&self) {
        self.change_of_companions(&open_files());
    }

    /// What became of the file, or of those beside it, and what follows from it.
    fn change(&self) -> Option<String> {
        let is_lost = |change: String| format!("{change}: {IS_LOST}");
        self.change_of_file()
            .map(is_lost)
            .or_else(|| self.change_of_link())
            .or_else(|| self.change_of_companions(&open_files()).map(is_lost))
    }

    fn change_of_file(&self) -> Option<String> {
        let path = self.path.display();
        match identity(&self.path) {
            Ok(found) if found == self.identity => None,
            Ok(_) => Some(format!(
                "another file is at {path} than the one that this server has open"
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
                "the file {path}, which this server has open, is gone from there"
            )),
            Err(error) => Some(format!(
                "the file {path}, which this server has open, cannot be looked at: {error}"
            )),
        }
    }

    fn change_of_link(&self) -> Option<String> {
        let (path, configured) = (self.path.display(), self.configured.display());
        let change = match identity(&self.configured) {
            Ok(found) if found == self.identity => return None,
            Ok(_) => format!("{configured} leads to another file than {path}, which this server has open"),
            Err(error) => format!("{configured} no longer leads to {path}, which this server has open: {error}"),
        };
        Some(format!("{change}; {IS_ELSEWHERE}"))
    }

    /// SQLite deletes its companions when the last connection of all processes closes, and makes new ones with the next. So one is missed only
    /// while this process still has it open.
    fn change_of_companions(&self, open: &[OpenFile]) -> Option<String> {
        let mut companions = self.companions.lock().unwrap_or_else(PoisonError::into_inner);
        COMPANIONS
            .into_iter()
            .zip(companions.iter_mut())
            .find_map(|(ending, known)| {
                let name = format!("{}{ending}", self.path.display());
                let found = identity(Path::new(&name)).ok();
                let of = |wanted: Option<FileIdentity>| open.iter().find(|file| Some(file.identity) == wanted);
                match of(*known) {
                    Some(missed) if found != *known => Some(if is_deleted(&missed.target) {
                        format!("the file {name}, which this server has open, was deleted")
                    } else {
                        format!(
                            "the file {name}, which this server has open, was moved to {}",
                            missed.target.display()
                        )
                    }),
                    Some(_) => None,
                    None => {
                        *known = of(found).map(|file| file.identity);
                        None
                    }
                }
            })
    }
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let metadata = path.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn open_files() -> Vec<OpenFile> {
    let links = std::fs::read_dir(OPEN_FILES).into_iter().flatten().flatten();
    let opened = links.filter_map(|link| {
        Some(OpenFile {
            // Of the open file itself, whatever its name leads to now.
            identity: identity(&link.path()).ok()?,
            target: link.path().read_link().ok()?,
        })
    });
    opened.collect()
}

fn is_deleted(target: &Path) -> bool {
    target.as_os_str().as_encoded_bytes().ends_with(DELETED.as_bytes())
}

impl Db {
    /// Refuses an SQLite file that is no longer the one at its path.
    ///
    /// # Errors
    /// [`StoreError::FileReplaced`].
    pub async fn require_same_file(&self) -> Result<(), StoreError> {
        let Self::Sqlite { file: Some(file), .. } = self else {
            return Ok(());
        };
        let file = std::sync::Arc::clone(file);
        let change = tokio::task::spawn_blocking(move || file.change()).await;
        match change.ok().flatten() {
            Some(change) => Err(StoreError::FileReplaced { change }),
            None => Ok(()),
        }
    }
}
