//! `keyround db copy`: everything into another database, from SQLite to PostgreSQL or back.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::app::{open_database, open_ledger};
use crate::config::Config;
use crate::events::{Entry, Event};
use crate::keyring::trusted_time;
use crate::rotation::sealing::heartbeat_memory;
use crate::store::StoreError;
use crate::store::backup::RestoreError;
use crate::store::copy::{CopiedTable, CopyError};
use crate::values::Database;

use super::{living_nodes, lost_revocations};
use crate::cli::context::{ACTOR, Context, missing_folder};
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::output;

#[derive(Args)]
#[group(id = "target", required = true, multiple = false)]
pub struct CopyRequest {
    /// The other database: `sqlite:PATH`, or `postgres://USER@HOST/DATABASE`. With a password in it, use --to-file.
    #[arg(long, value_name = "URL", group = "target")]
    to: Option<String>,
    /// A file that holds the URL (mode 0600), or - for standard input.
    #[arg(long, value_name = "FILE", group = "target")]
    to_file: Option<PathBuf>,
}

pub async fn run(context: &Context, config: &Config, request: &CopyRequest) -> Result<(), Failure> {
    let target = target(request)?;
    if target == config.database {
        return Err(Failure::Usage(format!(
            "{target} is the database of the settings; name another one"
        )));
    }
    let (_, source) = context.database().await?;
    source.refuse_later_schema().await?;
    let policy = &config.keys.policy;
    let now = trusted_time(&source, policy, &context.clock, None).await?.checked_at();
    let living = living_nodes(&source, policy, now).await?;
    if !living.is_empty() {
        return Err(Failure::Refused(format!(
            "servers run on {}: {}. Stop them first, for what they write during the copy would be lost; one that was killed counts as \
             running for {} after its last heartbeat",
            config.database,
            living.join(", "),
            heartbeat_memory(policy),
        )));
    }
    let lost = lost_revocations(open_ledger(config).as_ref(), &source.signing_keys().await?.keys());
    if !lost.is_empty() {
        return Err(Failure::Refused(format!(
            "nothing was copied, because servers of the copy that lack the ledger would sign with a revoked key: {}. Or start a server with \
             that ledger, which writes the revocation again; the runbook revocation-lost says how",
            lost.join("; ")
        )));
    }
    let folder = missing_folder(&target);
    let other = open_database(&target)
        .await
        .map_err(|error| Failure::from(error).located(&target, "--to or --to-file"))?;
    let from = config.database.to_string();
    let entry = |rows: u64| {
        Entry::new(
            Event::DatabaseCopied,
            "database",
            now,
            ACTOR.as_str(),
            format!("{rows} rows from {from}"),
        )
    };
    let tables = source
        .copy_to(&other, &from, now, entry)
        .await
        .map_err(|error| refused(&error, &config.database, &target))?;
    other.close().await;
    source.close().await;
    if let Some(folder) = folder.filter(|_| !context.json) {
        output::line(&format!("made the folder {}", folder.display()));
    }
    print(context, &from, &target, &tables);
    Ok(())
}

/// Names the database that failed and, if a right is missing, the role of its URL. A copy makes tables, and locks those of the source.
fn refused(error: &CopyError, source: &Database, target: &Database) -> Failure {
    let (store, database, what) = match error {
        CopyError::Source(error) => (Some(error), source, "cannot copy from"),
        CopyError::Target(RestoreError::Store(error)) => (Some(error), target, "cannot copy to"),
        _ => (None, target, "cannot copy to"),
    };
    let right = store.and_then(|error| error.missing_right_to_tables(database.role()));
    let why = match store {
        _ if right.is_some() => right.unwrap_or_default(),
        Some(full @ StoreError::Full(_)) => {
            format!("{full}; make room on its disk, or name another database, and run it again: nothing was copied")
        }
        Some(store) => match (store.about_file(), store.advice()) {
            (Some(about), _) => about.to_owned(),
            (None, Some(advice)) => format!("{error} ({advice})"),
            (None, None) => error.to_string(),
        },
        None => error.to_string(),
    };
    Failure::Refused(format!("{what} {database}: {why}"))
}

fn target(request: &CopyRequest) -> Result<Database, Failure> {
    if let Some(path) = &request.to_file {
        let text = input::secret("--to-file", path)?;
        return text
            .parse()
            .map_err(|refusal| Failure::Usage(format!("the URL in {} {refusal}", input::shown(path))));
    }
    let text = request.to.as_deref().unwrap_or_default();
    let target = text
        .parse()
        .map_err(|refusal| Failure::Usage(format!("--to {refusal}")))?;
    if let Database::Postgres(url) = &target
        && url.holds_password()
    {
        return Err(Failure::Usage(
            "the URL of --to holds a password, which every process of this machine can read; write the URL into a file of mode 0600 and give \
             --to-file FILE, or - to read standard input"
                .to_owned(),
        ));
    }
    Ok(target)
}

fn print(context: &Context, from: &str, target: &Database, tables: &[CopiedTable]) {
    if context.json {
        let next = format!("set database.url to {target} on every node; start no server on {from}");
        output::json(&json!({ "from": from, "to": target.to_string(), "tables": tables, "next": next }));
        return;
    }
    let rows: Vec<Vec<String>> = tables
        .iter()
        .map(|table| {
            vec![
                table.table.to_owned(),
                table.rows.to_string(),
                table.checksum[..16].to_owned(),
            ]
        })
        .collect();
    output::line(&output::table(&["TABLE", "ROWS", "CHECKSUM"], &rows));
    let total: u64 = tables.iter().map(|table| table.rows).sum();
    output::line(&format!(
        "copied {total} rows from {from} to {target}; counts and checksums are equal on both sides. Set database.url to the new database \
         on every node before you start one, and start none on the old one: its keys would go another way."
    ));
}
