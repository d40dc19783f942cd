//! Secrets that lie in files of their own.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::ConfigError;

/// No secret of ours is longer, in bytes.
const LONGEST: u64 = 4096;

/// Reads a secret, without the white space around it.
///
/// # Errors
/// A file that cannot be read, that group or others may read, that is empty, or that is longer than 4096 bytes.
pub fn read(setting: &'static str, path: &Path) -> Result<Zeroizing<String>, ConfigError> {
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
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_dir() && metadata.mode() & 0o077 != 0 {
        return Err(ConfigError::SecretExposed {
            setting,
            path: path.to_owned(),
            mode: metadata.mode() & 0o777,
        });
    }
    // The buffer never grows, so no copy of the secret stays behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * usize::try_from(LONGEST).unwrap_or(0)));
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(refused("is longer than 4096 bytes, which no secret of Keyround is"));
    }
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(refused("is empty"));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}
