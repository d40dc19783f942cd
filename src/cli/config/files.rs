//! What `config check` finds in the files that the settings name. Nothing is made or changed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::app::{check_tls, open_ledger};
use crate::cli::context::Context;
use crate::config::{Config, MasterKeySource, TlsFiles, read_pem};
use crate::crypto::sealing::{MasterKeys, SealError};
use crate::files::reading::{self, FileReading};
use crate::files::unwritable;
use crate::outbound::Outbound;
use crate::values::Database;

/// How an SQLite file begins.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// What is wrong, a sentence for each file.
pub fn faults(context: &Context, config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(files) = &config.server.tls {
        faults.extend(tls(context, config, files));
    }
    faults.extend(Outbound::new(&config.outbound).err().map(|error| error.to_string()));
    faults.extend(master_key(context, config));
    faults.extend(database(&config.database));
    faults.extend(ledger(config));
    faults
}

/// Both files are read first, so that each is reported.
fn tls(context: &Context, config: &Config, files: &TlsFiles) -> Vec<String> {
    let certificate = reading::read(&files.certificate)
        .err()
        .map(|error| unreadable(&files.certificate, "server.tls_certificate_file", &error));
    let key = read_pem("server.tls_key_file", &files.key).err();
    let unreadable: Vec<String> = certificate
        .into_iter()
        .chain(key.map(|error| error.to_string()))
        .collect();
    if unreadable.is_empty() {
        let refused = check_tls(config, &context.clock).err();
        return refused.map(|error| error.to_string()).into_iter().collect();
    }
    unreadable
}

fn master_key(context: &Context, config: &Config) -> Option<String> {
    match &config.keys.master_key {
        MasterKeySource::Missing => return None,
        // A first development start makes it.
        MasterKeySource::File(path) if context.sources.development && !path.exists() && is_new(&config.database) => {
            return writable(path).map(|why| format!("{}, which keys.master_key_file names, {why}", path.display()));
        }
        _ => {}
    }
    let text = match config.master_key_text() {
        Ok(text) => text,
        Err(error) => return Some(error.to_string()),
    };
    let error = MasterKeys::parse(&text).err()?;
    // One that is there is not to be replaced by another.
    let is_there = matches!(
        error,
        SealError::ListedTwice { .. } | SealError::Hexadecimal | SealError::Line { .. }
    );
    Some(match &config.keys.master_key {
        MasterKeySource::File(path) if is_there => {
            format!(
                "{}, which keys.master_key_file names, cannot be used: {error}",
                path.display()
            )
        }
        MasterKeySource::File(path) => format!(
            "{}, which keys.master_key_file names, holds no master key: {error}; 'keyround master-key generate FILE' makes one",
            path.display()
        ),
        _ if is_there => format!("keys.master_key cannot be used: {error}"),
        _ => format!("keys.master_key is no master key: {error}; 'keyround master-key generate' prints one"),
    })
}

fn is_new(database: &Database) -> bool {
    matches!(database, Database::Sqlite { path } if path.metadata().map_or(true, |file| file.len() == 0))
}

fn database(database: &Database) -> Vec<String> {
    match database {
        Database::SqliteInMemory => Vec::new(),
        Database::Sqlite { path } => sqlite(path)
            .map(|why| format!("{}, which database.url names, {why}", path.display()))
            .into_iter()
            .collect(),
        Database::Postgres(url) => {
            let files = url.files();
            let unreadable = files.iter().filter_map(|(option, path)| {
                let is_readable = FileReading::open(path).and_then(|mut file| file.read(&mut [0]));
                let error = is_readable.err()?;
                Some(unreadable(
                    path,
                    &format!("the option {option} of database.url"),
                    &error,
                ))
            });
            unreadable.collect()
        }
    }
}

fn sqlite(path: &Path) -> Option<String> {
    if !path.exists() {
        return writable(path);
    }
    if !path.is_file() {
        return Some("is not a regular file; name another one".to_owned());
    }
    if access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        return Some(
            "cannot be read and written by this user; change its owner or mode, or name another file".to_owned(),
        );
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SQLITE.len() as u64).read_to_end(&mut head));
    match read {
        Err(error) => Some(format!("cannot be read: {error}")),
        Ok(_) if !head.is_empty() && head != SQLITE => {
            Some("is not an SQLite database; name another file, or move this one away".to_owned())
        }
        // SQLite writes its log beside the file.
        Ok(_) => writable(&path.with_extension("db-wal")),
    }
}

/// Whether the ledger can be read, and could be written.
fn ledger(config: &Config) -> Option<String> {
    let (ledger, path) = (open_ledger(config)?, config.keys.ledger_file.as_deref()?);
    if let Some(failure) = ledger.failure() {
        return Some(failure);
    }
    if path.parent().is_some_and(Path::exists) {
        // As a start does; it leaves no trace.
        return ledger.probe().err().map(|error| error.to_string());
    }
    writable(path).map(|why| {
        format!(
            "the ledger of revoked keys {}, which keys.ledger_file names, {why}",
            path.display()
        )
    })
}

/// Why a file could not be made at this path: the nearest folder that exists must be writable.
fn writable(path: &Path) -> Option<String> {
    let here = Path::new(".");
    let folders = path.ancestors().skip(1);
    let folder = folders
        .map(|folder| if folder.as_os_str().is_empty() { here } else { folder })
        .find(|folder| folder.exists())?;
    if !folder.is_dir() {
        return Some(format!("cannot be made: {} is not a folder", folder.display()));
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .err()
        .map(|error| format!("cannot be made: {}", unwritable(path, &error.into())))
}

fn unreadable(path: &Path, setting: &str, error: &std::io::Error) -> String {
    format!("cannot read {}, which {setting} names: {error}", path.display())
}
