//! `keyround config`: look at the settings.

use clap::Subcommand;

use crate::app::open_database;
use crate::config::{Config, Database};
use crate::jose::alg::Algorithm;
use crate::keys::lifecycle::Keys;
use crate::keys::plan;
use crate::store::known_schema;

use super::{Context, Failure, output};

#[derive(Subcommand)]
pub enum Command {
    /// Read the settings and hold them against each other; warnings name verifiers that would refuse tokens.
    Check,
    /// Print the effective settings; secrets are hidden.
    Show,
}

pub async fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    let config = context.config()?;
    let mut warnings = config.warnings();
    if matches!(command, Command::Check) {
        warnings.extend(left_out(&config).await);
    }
    match command {
        Command::Check if context.json => output::json(&serde_json::json!({ "ok": true, "warnings": warnings })),
        Command::Check => {
            for warning in &warnings {
                output::line(&format!("warning: {warning}"));
            }
            output::line("the settings hold");
        }
        Command::Show if context.json => output::json(&config.to_json()),
        Command::Show => output::line(config.to_toml().trim_end()),
    }
    Ok(())
}

/// Algorithms that the settings leave out although they have keys. The database is asked only where one is left out, and
/// nothing is changed in it.
async fn left_out(config: &Config) -> Vec<String> {
    let policy = &config.keys.policy;
    if Algorithm::ALL.iter().all(|alg| policy.algorithms().contains(alg)) {
        return Vec::new();
    }
    let Some(keys) = keys(config).await else {
        return Vec::new();
    };
    plan::left_out(&keys, policy)
        .into_iter()
        .map(|alg| {
            format!(
                "{alg} is left out of keys.algorithms but not removed: its keys are rotated and published, and no client gets a \
                 token of it; 'keyround keys remove-algorithm {alg}' ends it"
            )
        })
        .collect()
}

/// The keys in the database; none where it does not answer or has another schema.
async fn keys(config: &Config) -> Option<Keys> {
    if let Database::Sqlite { path } = &config.database
        && !path.exists()
    {
        return None;
    }
    let db = open_database(&config.database).await.ok()?;
    if db.schema_version().await.ok()? != known_schema() {
        return None;
    }
    Some(db.signing_keys().await.ok()?.keys())
}
