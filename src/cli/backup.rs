//! `keyround backup` and `keyround restore`: the database in one file, and back.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::app::{StartError, connect};
use crate::clock::UnixTime;
use crate::jose::jwk::Kid;
use crate::keyring::{Ledger, trusted_time};
use crate::rotation::Rotator;
use crate::store::audit::Entry;
use crate::store::dump::Dump;

use super::master_key::master_keys;
use super::{ACTOR, Context, Failure, output};

#[derive(Args)]
pub struct Target {
    /// The backup.
    file: PathBuf,
}

/// Writes every table into a new file, while servers run.
pub async fn backup(context: &Context, Target { file }: &Target) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let now = trusted_time(&db, &config.keys.policy, &context.clock, None)
        .await?
        .checked_at();
    let dump = db.dump(now).await?;
    write(file, &dump.to_text())
        .map_err(|error| Failure::Refused(format!("cannot write {}: {error}", file.display())))?;
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

/// A file that exists is never overwritten: it may be the only backup.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Restores into an empty database, which ends in new keys for every algorithm.
pub async fn restore(context: &Context, Target { file }: &Target) -> Result<(), Failure> {
    let config = context.config()?;
    let master_key = Arc::new(master_keys(&config)?);
    let cannot = |why: &dyn std::fmt::Display| Failure::Refused(format!("cannot restore {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let dump = Dump::parse(&text).map_err(|error| cannot(&error))?;
    let ledger = config.keys.ledger_file.as_deref().map(Ledger::open).transpose();
    let ledger = ledger.map_err(|error| Failure::Start(StartError::Ledger(error)))?;
    let rotator = Rotator {
        db: connect(&config.database).await?,
        master_key,
        policy: Arc::new(config.keys.policy.clone()),
        clock: context.clock.clone(),
    };
    let restored = rotator
        .restore(&dump, ledger.as_ref(), ACTOR)
        .await
        .map_err(|error| cannot(&error))?;
    if context.json {
        output::json(&json!({
            "taken_at": dump.taken_at.rfc3339(),
            "rows": restored.rows,
            "signs_now": restored.signs_now,
            "revoked": restored.revoked,
        }));
        return Ok(());
    }
    for (table, rows) in &restored.rows {
        output::line(&format!("{table:<15}{rows} rows"));
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
