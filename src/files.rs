//! Files that appear whole or not at all: they are written under another name, brought to the disk, and then named. And files that are read.

pub mod reading;
mod writing;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the name of a file ends with until it is whole.
const UNFINISHED: &str = ".unfinished";

/// A file beside its target that becomes it once it is known to be good. Removed when dropped, and locked while its writer lives, so
/// that a later writer removes what a killed one has left.
pub struct Unfinished {
    target: PathBuf,
    path: PathBuf,
    file: File,
}

impl Unfinished {
    /// Makes an empty file with this mode beside the target.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written.
    pub fn new(target: &Path, mode: u32) -> std::io::Result<Self> {
        let name = target.file_name().ok_or(ErrorKind::InvalidFilename)?;
        remove_leftovers(target, name);
        let mut unfinished = OsString::from(".");
        unfinished.push(name);
        unfinished.push(format!(".{}{UNFINISHED}", uuid::Uuid::new_v4().simple()));
        let path = target.with_file_name(unfinished);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        // A file system without locks keeps leftovers.
        let _ = file.try_lock();
        Ok(Self {
            target: target.to_owned(),
            path,
            file,
        })
    }

    /// Where it is until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of it to the disk.
    ///
    /// # Errors
    /// When there is no room, or the disk fails.
    pub fn write(&mut self, content: &[u8]) -> std::io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()
    }

    /// Gives it its name, unless a file of this name has appeared meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or what the system says.
    pub fn finish_new(self) -> std::io::Result<()> {
        match std::fs::hard_link(&self.path, &self.target) {
            // A file system without hard links.
            Err(error) if error.kind() != ErrorKind::AlreadyExists && self.target.symlink_metadata().is_err() => {
                std::fs::rename(&self.path, &self.target)?;
            }
            linked => linked?,
        }
        sync_folder(&self.target)
    }

    /// Gives it its name, in place of a file that has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(self) -> std::io::Result<()> {
        std::fs::rename(&self.path, &self.target)?;
        sync_folder(&self.target)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is none.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes a file whole, in place of one that exists. What is no regular file (a pipe, a terminal) is written as it is.
///
/// # Errors
/// When there is no room, or the folder or file cannot be written.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    match path.metadata() {
        Ok(metadata) if metadata.file_type().is_fifo() => return writing::write_pipe(path, content),
        Ok(metadata) if !metadata.is_file() => return std::fs::write(path, content),
        _ => {}
    }
    // A symbolic link stays one.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut file = Unfinished::new(&target, mode)?;
    file.write(content)?;
    file.finish()
}

/// Why a file could not be made or written, and what to do: the nearest folder that exists is named.
#[must_use]
pub fn unwritable(path: &Path, error: &std::io::Error) -> String {
    let folders = path.ancestors().skip(1);
    let folder = folders
        .map(|folder| {
            if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            }
        })
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let shown = folder.display();
    let cure = match error.kind() {
        _ if !folder.is_dir() => format!("{shown} is not a folder; name another one"),
        // What is wrong with a pipe is not where it is.
        ErrorKind::Other => return error.to_string(),
        _ if path.is_dir() => "it is a folder; name a file".to_owned(),
        ErrorKind::PermissionDenied => format!(
            "let this user (id {}) write in the folder {shown}, or name another one",
            rustix::process::geteuid().as_raw()
        ),
        ErrorKind::ReadOnlyFilesystem => {
            format!("mount the file system of the folder {shown} for writing, or name another folder")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("make room where the folder {shown} is"),
        _ => format!("it is to be in the folder {shown}; name another one"),
    };
    format!("{error}; {cure}")
}

fn remove_leftovers(target: &Path, name: &std::ffi::OsStr) {
    let Ok(entries) = std::fs::read_dir(folder_of(target)) else {
        return;
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in entries.flatten() {
        let other = entry.file_name();
        let other = other.to_string_lossy();
        let is_ours = other.starts_with(&prefix) && other.ends_with(UNFINISHED);
        // To open a pipe would wait for its writer.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        // Nobody holds the lock of a writer that is gone.
        if is_ours && is_file && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let mut file = Unfinished::new(&path, 0o600).unwrap();
        file.write(b"secret").unwrap();
        assert!(!path.exists());
        // Another writer beside it removes nothing that is in use.
        let other = Unfinished::new(&path, 0o600).unwrap();
        assert!(file.path().exists());
        drop(other);
        file.finish_new().unwrap();
        assert_eq!(names(folder.path()), ["a.key"]);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let mut late = Unfinished::new(&path, 0o600).unwrap();
        late.write(b"other").unwrap();
        assert_eq!(late.finish_new().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        replace(&path, b"third", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(names(folder.path()), ["a.key"]);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.json");
        let left = folder.path().join(".backup.json.1.unfinished");
        std::fs::write(&left, "half").unwrap();
        std::fs::write(folder.path().join(".other.1.unfinished"), "another's").unwrap();
        let pipe = folder.path().join(".backup.json.2.unfinished");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        Unfinished::new(&path, 0o600).unwrap().finish_new().unwrap();
        assert_eq!(
            names(folder.path()),
            [".backup.json.2.unfinished", ".other.1.unfinished", "backup.json"]
        );
    }

    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"two", 0o644).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        replace(Path::new("/dev/null"), b"three", 0o644).unwrap();
        assert!(replace(Path::new("/dev/full"), b"four", 0o644).is_err());
    }
}
