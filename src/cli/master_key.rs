//! `keyround master-key`: make the key that private halves lie under.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::jose::seal::MasterKey;

use super::{Context, Failure, output};

#[derive(Subcommand)]
pub enum Command {
    /// Print 32 random bytes in base64, or write them to FILE with mode 0600; a file that is not empty is refused.
    Generate {
        /// Where to write it.
        file: Option<PathBuf>,
    },
}

pub fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    let Command::Generate { file } = command;
    let master_key = MasterKey::generate().map_err(|error| Failure::Refused(error.to_string()))?;
    let text = master_key.to_base64();
    match file {
        None if context.json => output::json(&serde_json::json!({ "master_key": text.as_str() })),
        None => output::line(&text),
        Some(path) => {
            write(path, &text)?;
            if context.json {
                output::json(&serde_json::json!({ "file": path }));
            } else {
                output::line(&format!("wrote a new master key to {} (mode 0600)", path.display()));
            }
        }
    }
    Ok(())
}

/// Writes a master key where none is.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::Refused(format!("cannot write {}: {error}", path.display()));
    if path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Err(Failure::Usage(format!(
            "{} exists and is not empty; a master key is never overwritten, name another file",
            path.display()
        )));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(cannot)?;
    // An empty file that stood there may have had another mode.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(cannot)?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(cannot)
}
