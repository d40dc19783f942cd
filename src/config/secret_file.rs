//! Secrets that lie in files of their own.

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::reading::FileReading;
use crate::text;

use super::ConfigError;

/// No secret of ours is longer, in bytes.
const LONGEST: u64 = 4096;

/// Reads a secret, without one line end behind it. Other white space around it may be a part of it or not, so it is refused.
///
/// # Errors
/// A file that cannot be read, that group or others may open (root's may be readable by its group), that is empty, that begins or
/// ends with white space, that is no UTF-8 text, or that is longer than 4096 bytes.
pub fn read(setting: &'static str, path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    read_from(setting, path, open(setting, path)?)
}

/// Reads a private key in PEM, whose form says where it begins and ends (RFC 7468).
///
/// # Errors
/// As [`read`], but for white space.
pub fn read_pem(setting: &'static str, path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    read_text(setting, path, open(setting, path)?)
}

fn open(setting: &'static str, path: &Path) -> Result<FileReading, ConfigError> {
    let unreadable = |source| ConfigError::SecretUnreadable {
        setting,
        path: shown(setting, path),
        source,
    };
    let file = FileReading::open(path).map_err(unreadable)?;
    refuse_exposed(setting, path, &file.metadata().map_err(unreadable)?)?;
    Ok(file)
}

/// A file that does not exist may be a secret itself, given in place of the file.
fn shown(setting: &str, path: &Path) -> PathBuf {
    let is_flag = setting.starts_with("--");
    if path.symlink_metadata().is_err() && (is_flag || text::may_be_secret(&path.to_string_lossy())) {
        return PathBuf::from("the file");
    }
    path.to_owned()
}

/// The same of an open file, whoever may read it.
///
/// # Errors
/// As [`read`].
pub fn read_from(setting: &'static str, path: &Path, file: impl Read) -> Result<Zeroizing<String>, ConfigError> {
    let text = read_text(setting, path, file)?;
    let line = text::without_line_end(&text);
    if line.trim() == line {
        return Ok(Zeroizing::new(line.to_owned()));
    }
    Err(ConfigError::SecretRefused {
        setting,
        path: path.to_owned(),
        why: "begins or ends with white space, which may be a part of the secret; one line end is cut off, so take every other blank, tab \
              and line end away, as 'printf %s SECRET > FILE' writes none",
    })
}

fn read_text(setting: &'static str, path: &Path, file: impl Read) -> Result<Zeroizing<String>, ConfigError> {
    let unreadable = |source| ConfigError::SecretUnreadable {
        setting,
        path: path.to_owned(),
        source,
    };
    let refused = |why| ConfigError::SecretRefused {
        setting,
        path: path.to_owned(),
        why,
    };
    // The buffer never grows, so no copy of the secret stays behind.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * usize::try_from(LONGEST).unwrap_or(0)));
    file.take(LONGEST + 1).read_to_end(&mut content).map_err(unreadable)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(refused("is longer than 4096 bytes, which no secret of Keyround is"));
    }
    if setting == "keys.master_key_file" && is_raw_key(&content) {
        return Err(refused(
            "is 32 octets that are no text, as if they were a key that is not encoded; a master key is in base64: if these octets are to be \
             the key, encode them by (umask 077; head -c 32 FILE | base64 > NEW-FILE) and name NEW-FILE",
        ));
    }
    let text = text::decode(&content).map_err(|error| unreadable(std::io::Error::other(error)))?;
    if text.trim().is_empty() {
        return Err(refused("is empty"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Whether this is a key of 32 octets as a random generator gives it, perhaps with a line end. 32 random octets are a text less than once
/// in 2^40.
fn is_raw_key(content: &[u8]) -> bool {
    let is_text = text::decode(content).is_ok_and(|text| {
        text.chars()
            .all(|character| !character.is_control() || character.is_whitespace())
    });
    !is_text && (content.len() == 32 || (content.len() == 33 && content.ends_with(b"\n")))
}

/// Refuses a file whose secret others may read. A terminal keeps nothing.
///
/// # Errors
/// [`ConfigError::SecretExposed`].
pub fn refuse_exposed(setting: &'static str, path: &Path, metadata: &Metadata) -> Result<(), ConfigError> {
    let kind = metadata.file_type();
    let user = rustix::process::geteuid().as_raw();
    if (kind.is_file() || kind.is_fifo()) && is_exposed(metadata.mode(), metadata.uid(), user) {
        return Err(ConfigError::SecretExposed {
            setting,
            path: path.to_owned(),
            mode: metadata.mode() & 0o777,
            cure: cure(path, metadata.uid(), user),
        });
    }
    Ok(())
}

/// Folders whose files are of the system.
const SYSTEM: [&str; 9] = [
    "/bin", "/boot", "/dev", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr",
];

/// The mode is changed only of a file that is the user's own, and not of the system: others need to read that.
fn cure(path: &Path, owner: u32, user: u32) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_of_system =
        whole.parent() == Some(Path::new("/etc")) || SYSTEM.iter().any(|folder| whole.starts_with(folder));
    if owner == user && !is_of_system {
        return format!("run: chmod 600 {}", text::for_shell(&path.display().to_string()));
    }
    "write the secret into a file of its own, which only this user may read: (umask 077; cat > FILE)".to_owned()
}

/// The rule of PostgreSQL's private keys: 0600 or less for a file of this process's user, 0640 or less for one of root's, which
/// a platform mounts for a group (Kubernetes' `fsGroup`).
const fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    let forbidden = if owner == 0 && user != 0 { 0o037 } else { 0o077 };
    mode & forbidden != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_changed_only_of_a_file_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(cure(file.path(), 1000, 1000).starts_with("run: chmod 600 /"));
        assert!(cure(file.path(), 0, 0).starts_with("run: chmod 600 /"));
        let link = file.path().with_extension("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        for (path, owner, user) in [
            (file.path(), 0, 1000),
            (file.path(), 1000, 0),
            (Path::new("/etc/passwd"), 0, 0),
            (Path::new("/etc/../etc/passwd"), 0, 0),
            (Path::new("/proc/self/environ"), 0, 0),
            (Path::new("/usr/bin/env"), 0, 0),
            (&link, 0, 0),
        ] {
            let cure = cure(path, owner, user);
            assert!(
                cure.starts_with("write the secret into a file of its own"),
                "{path:?} of {owner} for {user}: {cure}"
            );
        }
        std::fs::remove_file(link).unwrap();
    }

    #[test]
    fn files_of_root_may_be_readable_by_their_group() {
        for (mode, owner, user, exposed) in [
            (0o600, 1000, 1000, false),
            (0o400, 1000, 1000, false),
            (0o440, 1000, 1000, true),
            (0o640, 1000, 1000, true),
            (0o440, 0, 1000, false),
            (0o640, 0, 1000, false),
            (0o660, 0, 1000, true),
            (0o650, 0, 1000, true),
            (0o644, 0, 1000, true),
            (0o444, 0, 1000, true),
            (0o440, 0, 0, true),
            (0o400, 0, 0, false),
            (0o440, 1000, 0, true),
            (0o600, 1000, 0, false),
        ] {
            assert_eq!(is_exposed(mode, owner, user), exposed, "{mode:o} of {owner} for {user}");
        }
    }
}
