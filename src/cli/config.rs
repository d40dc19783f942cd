//! `keyround config`: look at the settings.

mod files;

use clap::Subcommand;

use crate::app::{check_tls, open_database};
use crate::config::{Config, MasterKeySource};
use crate::jose::alg::Algorithm;
use crate::keys::lifecycle::Keys;
use crate::keys::plan;
use crate::store::known_schema;
use crate::values::Database;

use super::context::Context;
use super::failure::Failure;
use super::output;

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Read the settings, compare them with each other, and open every file that they name; warnings name verifiers that would refuse
    /// tokens. Nothing is made or changed.
    Check {
        /// Connect to the database too.
        #[arg(long)]
        connect: bool,
    },
    /// Print the effective settings; secrets are hidden.
    Show,
}

pub async fn run(context: &Context, command: &ConfigCommand) -> Result<(), Failure> {
    let config = context.config()?;
    let mut warnings = config.warnings();
    match command {
        ConfigCommand::Check { connect } => {
            // What is wrong with the pair is one of the faults.
            warnings.extend(check_tls(&config, &context.clock).ok().flatten());
            warnings.extend(without_master_key(&config));
            warnings.extend(left_out(&config).await);
            let mut faults = files::faults(context, &config);
            if *connect && faults.is_empty() {
                faults.extend(connection(&config).await);
            }
            return report(context, &warnings, &faults);
        }
        ConfigCommand::Show if context.json => output::json(&config.to_json()),
        ConfigCommand::Show => output::line(config.to_toml().trim_end()),
    }
    Ok(())
}

fn report(context: &Context, warnings: &[String], faults: &[String]) -> Result<(), Failure> {
    if context.json {
        output::json(&serde_json::json!({ "ok": faults.is_empty(), "warnings": warnings, "faults": faults }));
    } else {
        for warning in warnings {
            output::line(&format!("warning: {warning}"));
        }
    }
    if !faults.is_empty() {
        return Err(Failure::Usage(output::printable(&faults.join("; "))));
    }
    if !context.json {
        output::line("the settings hold");
    }
    Ok(())
}

fn without_master_key(config: &Config) -> Option<String> {
    let is_missing = config.keys.master_key == MasterKeySource::Missing;
    is_missing.then(|| {
        "no master key is set, so that 'keyround serve' would not start; set keys.master_key_file or keys.master_key".to_owned()
    })
}

/// Why the database cannot be used now, its schema is of another version or not whole, or the role lacks a right. An SQLite file that does not exist is not made.
async fn connection(config: &Config) -> Option<String> {
    if let Database::Sqlite { path } = &config.database
        && !path.exists()
    {
        return None;
    }
    let looked = async {
        let db = open_database(&config.database).await?;
        let version = db.schema_version().await?;
        if version >= known_schema() {
            db.require_compatible_schema().await?;
        }
        // A start brings an older schema up to date before it looks.
        if version < known_schema() {
            db.require_creation(version).await?;
        }
        if version >= known_schema() {
            db.require_rights().await?;
            db.require_working_schema().await?;
        }
        Ok(())
    };
    let failure: Failure = looked.await.err()?;
    Some(failure.located(&config.database, config.database_setting()).to_string())
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
    db.require_compatible_schema().await.ok()?;
    Some(db.signing_keys().await.ok()?.keys())
}
