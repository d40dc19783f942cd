//! Whether the files that SQLite has open are those at its path. A file that was replaced, moved or deleted lives on as long as the server,
//! and what is written to it is lost with the process.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Db, StoreError};

/// What SQLite keeps beside its file while it is open.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
/// What this process has open, one link a file. Linux has it.
const OPEN_FILES: &str = "/proc/self/fd";
/// What Linux appends to the target of such a link once no folder names the file any more.
const DELETED: &str = " (deleted)";

/// The file that was opened.
#[derive(Debug)]
pub struct SqliteFile {
    path: PathBuf,
    /// Its device and its number there, which no other file has as long as it is open.
    identity: (u64, u64),
}

impl SqliteFile {
    /// The file that is at this path while it is being opened.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }

    /// What became of the file, or of those beside it.
    fn change(&self) -> Option<String> {
        let path = self.path.display();
        match identity(&self.path) {
            Ok(found) if found == self.identity => {}
            Ok(_) => {
                return Some(format!(
                    "another file is at {path} than the one that this server has open"
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!(
                    "the file {path}, which this server has open, is gone from there"
                ));
            }
            Err(error) => {
                return Some(format!(
                    "the file {path}, which this server has open, cannot be looked at: {error}"
                ));
            }
        }
        let deleted: Vec<PathBuf> = open_files().filter(|target| is_deleted(target)).collect();
        COMPANIONS.into_iter().find_map(|companion| {
            let name = format!("{path}{companion}");
            let of_this = format!("{name}{DELETED}");
            let is_gone = deleted.iter().any(|target| target.as_os_str() == of_this.as_str());
            is_gone.then(|| format!("the file {name}, which this server has open, was deleted"))
        })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn open_files() -> impl Iterator<Item = PathBuf> {
    let links = std::fs::read_dir(OPEN_FILES).into_iter().flatten().flatten();
    links.filter_map(|link| link.path().read_link().ok())
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
