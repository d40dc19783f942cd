//! Files that an argument names, and `-` in place of one: standard input.

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::{PathBufValueParser, TypedValueParser};
use zeroize::Zeroizing;

use crate::config::{self, read_secret, read_secret_file};
use crate::files::reading::FileReading;
use crate::text;
use crate::values::{Refusal, check_path};

use super::failure::Failure;

/// In place of a name that is not repeated.
const HIDDEN: &str = "the file";

/// Whether some file of this command was standard input.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether the argument is standard input or output. A file of this name is `./-`.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads the path of what a command writes.
pub fn written() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if begins_at_home(&path) {
            return Err(NOT_REPLACED.to_owned());
        }
        check_path(&path.to_string_lossy())
            .map(|()| path)
            .map_err(|Refusal(why)| format!("it {why}"))
    })
}

/// What is wrong with a path of which the shell left the `~`.
const NOT_REPLACED: &str =
    "it begins with '~', which the shell did not replace, as behind '=' or in quotation marks; write the whole path";

/// Whether a path begins with `~` and names no file: a shell was to replace it.
fn begins_at_home(path: &Path) -> bool {
    path.starts_with("~") && path.symlink_metadata().is_err() && !Path::new("~").is_dir()
}

/// The file, or standard input, without a buffer that would keep a copy of a secret.
pub fn open(path: &Path) -> std::io::Result<FileReading> {
    if !is_standard(path) {
        return FileReading::open(path);
    }
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Err(std::io::Error::other(
            "it can be one file of a command alone; name the other one",
        ));
    }
    Ok(File::from(std::io::stdin().as_fd().try_clone_to_owned()?).into())
}

/// Refuses a file whose secret others may read. Standard input is what the shell gives.
pub fn refuse_exposed(flag: &'static str, path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    if is_standard(path) {
        return Ok(());
    }
    Ok(config::refuse_exposed(flag, path, metadata)?)
}

/// The file for a sentence. A name that no file has is not repeated, because a secret may have been typed in place of its file.
pub fn shown(path: &Path) -> String {
    if is_standard(path) {
        "standard input".to_owned()
    } else if path.symlink_metadata().is_ok() {
        path.display().to_string()
    } else {
        HIDDEN.to_owned()
    }
}

/// The secret in the file that this flag names, or on standard input.
pub fn secret(flag: &'static str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    if begins_at_home(path) {
        return Err(refused(flag, HIDDEN, &NOT_REPLACED));
    }
    if !is_standard(path) {
        return Ok(read_secret_file(flag, path)?);
    }
    let file = open(path).map_err(|error| Failure::Usage(format!("{flag}: cannot read standard input: {error}")))?;
    Ok(read_secret(flag, Path::new("standard input"), file)?)
}

/// Why the file that an argument names was not read.
pub fn cannot_read(argument: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    if text::is_token(&path.to_string_lossy()) && path.symlink_metadata().is_err() {
        return Failure::Usage(format!(
            "{argument} takes a file, and this is a token: write it into a file, or send it to standard input with - in place of the file"
        ));
    }
    if begins_at_home(path) {
        return refused(argument, &path.display().to_string(), &NOT_REPLACED);
    }
    let shown = match shown(path) {
        hidden if hidden == HIDDEN && !text::may_be_secret(&path.to_string_lossy()) => path.display().to_string(),
        shown => shown,
    };
    refused(argument, &shown, error)
}

/// The same of the file of a secret, whose name is not repeated if there is no such file.
pub fn cannot_read_secret(argument: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    if begins_at_home(path) {
        return refused(argument, HIDDEN, &NOT_REPLACED);
    }
    refused(argument, &shown(path), error)
}

fn refused(argument: &str, shown: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("cannot read {shown}, which {argument} names: {error}"))
}
