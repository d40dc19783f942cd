//! `keyround backup` and `keyround restore`: the database in one file, and back.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::app::{StartError, open_database, open_ledger, refuse_unfinished_copy};
use crate::clock::UnixTime;
use crate::files::Unfinished;
use crate::jose::jwk::Kid;
use crate::keyring::trusted_time;
use crate::rotation::{Rotator, try_restore};
use crate::store::audit::Entry;
use crate::store::dump::{Dump, Unauthenticated};

use super::context::{ACTOR, Context, Failure};
use super::master_key::master_keys;
use super::output;

#[derive(Args)]
pub struct Target {
    /// The file to write; one that exists is never overwritten.
    file: PathBuf,
}

#[derive(Args)]
pub struct Source {
    /// The backup.
    file: PathBuf,
    /// Accept a file of the older form, which does not show whether another hand changed it.
    #[arg(long)]
    unauthenticated: bool,
}

/// Writes every table of ours into a new file, while servers run, and tries whether the file can be restored.
pub async fn backup(context: &Context, Target { file }: &Target) -> Result<(), Failure> {
    let (config, db) = context.database_of_any_schema().await?;
    let master_keys = master_keys(&config)?;
    let now = trusted_time(&db, &config.keys.policy, &context.clock, None)
        .await?
        .checked_at();
    let dump = db.dump(now).await?;
    let cannot = |why: &dyn Display| Failure::Refused(format!("cannot write {}: {why}", file.display()));
    if file.symlink_metadata().is_ok() {
        return Err(cannot(&"it exists; name another file"));
    }
    let mut unfinished = Unfinished::new(file, 0o600).map_err(|error| cannot(&error))?;
    let written = unfinished
        .write(dump.to_text(&master_keys).as_bytes())
        .and_then(|()| std::fs::read_to_string(unfinished.path()))
        .map_err(|error| cannot(&error))?;
    let read = Dump::parse(&written, &master_keys, Unauthenticated::Refused).map_err(|error| cannot(&error))?;
    if read != dump {
        return Err(cannot(&"what was read back is not what was written; look at the disk"));
    }
    try_restore(&read, &master_keys)
        .await
        .map_err(|error| cannot(&format!("it could not be restored: {error}")))?;
    unfinished.finish_new().map_err(|error| cannot(&error))?;
    let reason = format!("{} rows", dump.rows.len());
    db.note(&Entry {
        event: "database.backed_up",
        subject: "database".to_owned(),
        happened_at: dump.taken_at,
        noted_at: now,
        actor: ACTOR.to_owned(),
        reason,
        once: false,
    })
    .await?;
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

/// Restores into an empty database, which ends in new keys for every algorithm.
pub async fn restore(context: &Context, Source { file, unauthenticated }: &Source) -> Result<(), Failure> {
    let config = context.config()?;
    let master_key = Arc::new(master_keys(&config)?);
    let cannot = |why: &dyn Display| Failure::Refused(format!("cannot restore {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
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
