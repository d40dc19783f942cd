//! `keyround backup` and `keyround restore`: the database in one file, and back.

use std::fmt::Display;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::app::{StartError, open_database, open_ledger, refuse_unfinished_copy};
use crate::clock::UnixTime;
use crate::crypto::sealing::MasterKeys;
use crate::events::{Entry, Event};
use crate::files::{self, Unfinished};
use crate::jose::jwk::Kid;
use crate::keyring::{Ledger, trusted_time};
use crate::rotation::{Rotator, try_restore};
use crate::store::Db;
use crate::store::dump::{Dump, DumpError, Unauthenticated};

use super::context::{ACTOR, Context, missing_folder};
use super::failure::Failure;
use super::input::{self, is_standard};
use super::master_key::master_keys;
use super::output;

#[derive(Args)]
pub struct BackupTarget {
    /// The file to write, or - for standard output; a file that exists is never overwritten.
    #[arg(value_parser = input::written())]
    file: PathBuf,
}

#[derive(Args)]
pub struct BackupSource {
    /// The backup, or - for standard input.
    file: PathBuf,
    /// Accept a file of the older form, which does not show whether another hand changed it.
    #[arg(long)]
    unauthenticated: bool,
}

/// Writes every table of ours into a new file, while servers run, and tries whether the file can be restored.
pub async fn backup(context: &Context, BackupTarget { file }: &BackupTarget) -> Result<(), Failure> {
    let (config, db) = context.database_of_any_schema().await?;
    db.refuse_later_schema().await?;
    if db.schema_version().await? == 0 {
        return Err(Failure::Refused(format!(
            "the database {} is empty, so nothing is to be backed up: the first 'keyround serve' or 'keyround db migrate' makes its tables",
            config.database
        )));
    }
    let master_keys = master_keys(&config)?;
    let now = trusted_time(&db, &config.keys.policy, &context.clock, None)
        .await?
        .checked_at();
    let dump = db.dump(now).await?;
    let to_standard_output = is_standard(file);
    let name = if to_standard_output {
        "standard output".to_owned()
    } else {
        file.display().to_string()
    };
    let cannot = |why: &dyn Display| Failure::Refused(format!("cannot write {name}: {why}"));
    if to_standard_output && context.json {
        return Err(Failure::Usage(
            "--json and - would both write standard output; leave one out".to_owned(),
        ));
    }
    let text = dump.to_text(&master_keys);
    if to_standard_output {
        verify(&text, &dump, &master_keys)
            .await
            .map_err(|error| cannot(&error))?;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| cannot(&error))?;
        return note(&db, &dump, now).await;
    }
    if file.symlink_metadata().is_ok() {
        return Err(cannot(&"it exists; name another file"));
    }
    let mut unfinished = Unfinished::new(file, 0o600).map_err(|error| cannot(&files::unwritable(file, &error)))?;
    let written = unfinished
        .write(text.as_bytes())
        .and_then(|()| std::fs::read_to_string(unfinished.path()))
        .map_err(|error| cannot(&files::unwritable(file, &error)))?;
    verify(&written, &dump, &master_keys)
        .await
        .map_err(|error| cannot(&error))?;
    unfinished
        .finish_new()
        .map_err(|error| cannot(&files::unwritable(file, &error)))?;
    note(&db, &dump, now).await?;
    if context.json {
        output::json(&json!({ "file": file, "rows": dump.rows.len(), "taken_at": dump.taken_at.rfc3339() }));
    } else {
        output::line(&format!(
            "wrote {} rows of schema {} to {} (mode 0600); private keys in it are sealed, so keep the master key elsewhere",
            dump.rows.len(),
            dump.schema,
            file.display()
        ));
    }
    Ok(())
}

/// That the text is what was read from the database, and can be restored.
async fn verify(text: &str, dump: &Dump, master_keys: &MasterKeys) -> Result<(), String> {
    let read = Dump::parse(text, master_keys, Unauthenticated::Refused).map_err(|error| error.to_string())?;
    if read != *dump {
        return Err("what was read back is not what was written; look at the disk".to_owned());
    }
    try_restore(&read, master_keys)
        .await
        .map_err(|error| format!("it could not be restored: {error}"))
}

async fn note(db: &Db, dump: &Dump, now: UnixTime) -> Result<(), Failure> {
    let entry = Entry::new(
        Event::DatabaseBackedUp,
        "database",
        now,
        ACTOR.as_str(),
        format!("{} rows", dump.rows.len()),
    )
    .that_happened_at(dump.taken_at);
    db.note(&entry)
        .await
        .map_err(|error| {
            let why = error.about_file().map_or_else(|| error.to_string(), str::to_owned);
            Failure::Refused(format!(
                "the backup is written and whole, but the audit log of the database does not say so: {why}; keep the file, and make the \
                 database writable again"
            ))
        })
        .map(drop)
}

/// How files begin that are given to `restore` and are no backup, with what to do.
const NO_BACKUPS: [(&[u8], &str); 11] = [
    (
        b"SQLite format 3\0",
        "it is an SQLite database: to use it, set database.url to sqlite:PATH",
    ),
    (
        b"PGDMP",
        "it is a dump of PostgreSQL: pg_restore reads it into an empty database, which database.url then names",
    ),
    (
        b"--\n-- PostgreSQL database",
        "it is a dump of PostgreSQL: psql reads it into an empty database, which database.url then names",
    ),
    (b"\x1f\x8b", COMPRESSED),
    (b"\x28\xb5\x2f\xfd", COMPRESSED),
    (b"\xfd7zXZ", COMPRESSED),
    (b"BZh", COMPRESSED),
    (b"PK\x03\x04", COMPRESSED),
    (b"age-encryption.org/", ENCRYPTED),
    (b"-----BEGIN PGP MESSAGE", ENCRYPTED),
    (b"-----BEGIN AGE ENCRYPTED", ENCRYPTED),
];
const COMPRESSED: &str = "it is compressed: decompress it first, such as by 'gzip -dc FILE | keyround restore -'";
const ENCRYPTED: &str = "it is encrypted: decrypt it first, such as by 'age -d FILE | keyround restore -'";

/// No first line of a backup is longer.
const LONGEST_HEAD: usize = 4_096;
/// No row of a backup is longer: the longest one holds a set of public keys.
const LONGEST_ROW: usize = 16 * 1024 * 1024;

/// Reads the text of a backup, of any length. A file that is no backup is refused by its beginning, or by what follows, also if it has no end.
fn text_of(mut source: impl Read) -> Result<String, String> {
    let unreadable = |error: std::io::Error| error.to_string();
    let mut content = Vec::new();
    source
        .by_ref()
        .take(LONGEST_HEAD as u64)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some((_, what)) = NO_BACKUPS.iter().find(|(head, _)| content.starts_with(head)) {
        return Err((*what).to_owned());
    }
    if !Dump::may_begin_with(&content) {
        return Err(DumpError::Format.to_string());
    }
    loop {
        let known = content.len();
        let piece = LONGEST_ROW as u64;
        let read = source
            .by_ref()
            .take(piece)
            .read_to_end(&mut content)
            .map_err(unreadable)?;
        if read < LONGEST_ROW {
            break;
        }
        if !content[known..].windows(2).any(|octets| octets == b"\n{") {
            return Err(DumpError::Damaged.to_string());
        }
    }
    String::from_utf8(content).map_err(|_| DumpError::Damaged.to_string())
}

/// Restores into an empty database, which ends in new keys for every algorithm.
pub async fn restore(context: &Context, BackupSource { file, unauthenticated }: &BackupSource) -> Result<(), Failure> {
    let config = context.config()?;
    let master_key = Arc::new(master_keys(&config)?);
    let name = if is_standard(file) {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let cannot = |why: &dyn Display| Failure::Refused(format!("cannot restore {name}: {why}"));
    let source = input::open(file).map_err(|error| cannot(&error))?;
    let text = text_of(source).map_err(|error| cannot(&error))?;
    let unauthenticated = if *unauthenticated {
        Unauthenticated::Accepted
    } else {
        Unauthenticated::Refused
    };
    let dump = Dump::parse(&text, &master_key, unauthenticated).map_err(|error| cannot(&error))?;
    let ledger = open_ledger(&config);
    if let Some(ledger) = &ledger {
        ledger
            .require_readable()
            .map_err(|error| Failure::Start(StartError::Ledger(error)))?;
    }
    // Before the restore, which makes the file.
    let missing_ledger = missing_ledger(ledger.as_ref());
    let folder = missing_folder(&config.database);
    let db = open_database(&config.database).await?;
    refuse_unfinished_copy(&db).await?;
    db.migrate().await?;
    let rotator = Rotator {
        db,
        master_key,
        policy: Arc::new(config.keys.policy.clone()),
        clock: context.clock.clone(),
        ledger: ledger.map(Arc::new),
    };
    let restored = rotator.restore(&dump, &ACTOR).await.map_err(|error| cannot(&error))?;
    if let Some(what) = missing_ledger {
        eprintln!(
            "keyround: warning: {what}: keys that were revoked after this backup was taken come back; name the ledger by \
             keys.ledger_file, or revoke them again"
        );
    }
    if context.json {
        output::json(&json!({
            "taken_at": dump.taken_at.rfc3339(),
            "rows": restored.rows,
            "left_out": dump.left_out(),
            "signs_now": restored.signs_now,
            "revoked": restored.revoked,
        }));
        return Ok(());
    }
    if let Some(folder) = folder {
        output::line(&format!("made the folder {}", folder.display()));
    }
    for (table, rows) in &restored.rows {
        output::line(&format!("{table:<15}{rows} rows"));
    }
    for (table, rows) in dump.left_out() {
        let table = output::printable(table);
        output::line(&format!("{table:<15}{rows} rows left out: no table of Keyround"));
    }
    output::line(&format!("sign from now on: {}", names(&restored.signs_now)));
    output::line(&format!("revoked: {}", names(&restored.revoked)));
    output::line(&told(dump.taken_at, restored.at));
    Ok(())
}

/// Which ledger is missing: without one, a restore cannot know what was revoked later.
fn missing_ledger(ledger: Option<&Ledger>) -> Option<String> {
    match ledger {
        None => Some("there is no ledger, because keys.ledger_file is not set".to_owned()),
        Some(ledger) if ledger.is_absent() => Some(format!("there is no ledger at {}", ledger.path().display())),
        Some(_) => None,
    }
}

fn names(kids: &[Kid]) -> String {
    if kids.is_empty() {
        return "none".to_owned();
    }
    kids.iter().map(Kid::to_string).collect::<Vec<_>>().join(", ")
}

fn told(taken_at: UnixTime, now: UnixTime) -> String {
    format!(
        "No private key of the backup was taken over. Tokens of keys made after {} are refused; what clients, revocations and \
         secrets changed since then must be done again.",
        output::time(taken_at, now)
    )
}

#[cfg(test)]
mod tests {
    use crate::crypto::sealing::MasterKey;

    use super::*;

    /// Counts what is read of it.
    struct Counted<R>(R, u64);

    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1 += read as u64;
            Ok(read)
        }
    }

    #[test]
    fn what_has_no_end_is_refused_soon() {
        let head = Dump {
            schema: 1,
            taken_at: UnixTime(0),
            rows: Vec::new(),
        };
        let head = head.to_text(&MasterKey::generate().unwrap().into());
        let head = head.lines().next().unwrap().to_owned() + "\n";
        let no_backup = DumpError::Format.to_string();
        let damaged = DumpError::Damaged.to_string();
        for (begins, goes_on, expected) in [
            ("", &b"\0"[..], &no_backup),
            ("", b"y\n", &no_backup),
            (&head, b"\0", &damaged),
            (&head, b"y\n", &damaged),
            (&head, b"{", &damaged),
        ] {
            let endless = goes_on.iter().copied().cycle().take(64 * 1024 * 1024);
            let endless: Vec<u8> = endless.collect();
            let mut source = Counted(begins.as_bytes().chain(&endless[..]), 0);
            assert_eq!(text_of(&mut source).unwrap_err(), *expected, "{begins}{goes_on:?}");
            assert!(source.1 <= (LONGEST_HEAD + LONGEST_ROW) as u64, "{}", source.1);
        }
        // However long it is.
        let row = format!("{{\"a\":\"{}\"}}\n", "x".repeat(1_000_000));
        let long = head + &row.repeat(40);
        assert_eq!(text_of(long.as_bytes()), Ok(long.clone()));
    }
}
