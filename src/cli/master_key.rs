//! `keyround master-key`: make the key that private halves lie under, and change it.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::app::StartError;
use crate::config::Config;
use crate::crypto::sealing::{MasterKey, MasterKeys};
use crate::files::{self, Unfinished};
use crate::keyring::trusted_time;
use crate::rotation::rewrap::{self, Census, Under};
use crate::rotation::sealing::{heartbeat_memory, nodes_without};
use crate::text;

use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::input::{is_standard, written};
use super::output;

#[derive(Subcommand)]
pub enum MasterKeyCommand {
    /// Print 32 random bytes in base64, or write them to FILE with mode 0600; a file that is not empty is refused.
    Generate {
        /// Where to write it; standard output when left out, or -.
        #[arg(value_parser = written())]
        file: Option<PathBuf>,
    },
    /// Count the rows under each master key.
    Status,
    /// Move every row under the first master key that is listed, while servers run that list it too. Killed, it is simply run again.
    Rewrap,
}

pub async fn run(context: &Context, command: &MasterKeyCommand) -> Result<(), Failure> {
    match command {
        MasterKeyCommand::Generate { file } => generate(context, file.as_deref()),
        MasterKeyCommand::Status => status(context).await,
        MasterKeyCommand::Rewrap => move_all(context).await,
    }
}

fn generate(context: &Context, file: Option<&Path>) -> Result<(), Failure> {
    let master_key = MasterKey::generate().map_err(|error| Failure::Refused(error.to_string()))?;
    let base64 = master_key.to_base64();
    match file.filter(|path| !is_standard(path)) {
        None if context.json => output::json(&json!({ "master_key": base64.as_str() })),
        None => output::line(&base64),
        Some(path) => {
            if text::may_be_secret(&path.to_string_lossy()) {
                return Err(Failure::Usage(
                    "FILE has the form of a key, not of a name; it is where the new master key is written".to_owned(),
                ));
            }
            let made_folder = write(path, &base64)?;
            if let Some(folder) = made_folder.filter(|_| !context.json) {
                output::line(&format!("made the folder {}", folder.display()));
            }
            if context.json {
                output::json(&json!({ "file": path, "id": master_key.id().to_string() }));
            } else {
                output::line(&format!(
                    "wrote the new master key {} to {} (mode 0600)",
                    master_key.id(),
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

async fn status(context: &Context) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let master_keys = master_keys(&config)?;
    let census = rewrap::census(&db, &master_keys).await?;
    if context.json {
        output::json(&rows(&master_keys, &census));
    } else {
        let rows = rows(&master_keys, &census);
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| vec![row.master_key.clone(), row.role.to_owned(), row.rows.to_string()])
            .collect();
        output::line(&output::table(&["MASTER KEY", "ROLE", "ROWS"], &cells));
    }
    Ok(())
}

async fn move_all(context: &Context) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let master_keys = master_keys(&config)?;
    let now = trusted_time(&db, &config.keys.policy, &context.clock, None)
        .await?
        .checked_at();
    let memory = heartbeat_memory(&config.keys.policy);
    let without = nodes_without(&db, &master_keys.sealing_id(), now, memory).await?;
    if !without.is_empty() {
        return Err(Failure::Refused(format!(
            "no row was moved: these servers do not list the master key {}, and could not start again: {}. List it on every node (first, with \
             the old one after it) and restart them, or stop them; one that was killed counts as running for {memory} after its last \
             heartbeat",
            master_keys.sealing_id(),
            without.join(", ")
        )));
    }
    let rewrapped = rewrap::rewrap(&db, &master_keys, &ACTOR, now)
        .await
        .map_err(|error| Failure::Refused(error.to_string()))?;
    let (before, after) = (
        rows(&master_keys, &rewrapped.before),
        rows(&master_keys, &rewrapped.after),
    );
    if context.json {
        output::json(&json!({ "moved": rewrapped.moved, "before": before, "after": after }));
    } else {
        let cells: Vec<Vec<String>> = names(&before, &after)
            .into_iter()
            .map(|(master_key, role)| {
                let count = |rows: &[ShownRow]| {
                    let row = rows.iter().find(|row| row.master_key == master_key && row.role == role);
                    row.map_or(0, |row| row.rows).to_string()
                };
                vec![master_key.clone(), role.to_owned(), count(&before), count(&after)]
            })
            .collect();
        output::line(&format!(
            "moved {} rows under {}",
            rewrapped.moved,
            master_keys.sealing_id()
        ));
        output::line(&output::table(&["MASTER KEY", "ROLE", "BEFORE", "AFTER"], &cells));
    }
    // A server may have started between the check and the end.
    let without = nodes_without(&db, &master_keys.sealing_id(), now, memory).await?;
    match rewrapped.left(&master_keys) {
        0 if !without.is_empty() => Err(Failure::Refused(format!(
            "the rows lie under {}, which these servers that started meanwhile do not list, so that they cannot start again: {}; list it on \
             them and restart them",
            master_keys.sealing_id(),
            without.join(", ")
        ))),
        0 => Ok(()),
        left => Err(Failure::Refused(format!(
            "{left} rows could not be moved under {}; list the master key that they need, or see 'keyround db check'",
            master_keys.sealing_id()
        ))),
    }
}

/// The master keys of this configuration.
pub fn master_keys(config: &Config) -> Result<MasterKeys, Failure> {
    MasterKeys::parse(&config.master_key_text()?).map_err(|error| Failure::Start(StartError::MasterKey(error)))
}

/// How many rows lie under one master key.
#[derive(Serialize)]
struct ShownRow {
    master_key: String,
    role: &'static str,
    rows: usize,
}

/// The listed ones in their order, with those that nothing lies under, then what opens under none.
fn rows(master_keys: &MasterKeys, census: &Census) -> Vec<ShownRow> {
    let listed = master_keys.ids().enumerate().map(|(index, id)| ShownRow {
        master_key: id.to_string(),
        role: if index == 0 { "seals" } else { "opens" },
        rows: census.get(&Under::Listed(id)).copied().unwrap_or(0),
    });
    let others = census.iter().filter_map(|(under, &rows)| match under {
        Under::Listed(_) => None,
        Under::NotListed(id) => Some(ShownRow {
            master_key: id.to_string(),
            role: "not listed",
            rows,
        }),
        Under::DoesNotOpen => Some(ShownRow {
            master_key: "-".to_owned(),
            role: "does not open",
            rows,
        }),
    });
    listed.chain(others).collect()
}

fn names(before: &[ShownRow], after: &[ShownRow]) -> Vec<(String, &'static str)> {
    let mut names: Vec<(String, &'static str)> = Vec::new();
    for row in before.iter().chain(after) {
        let name = (row.master_key.clone(), row.role);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Writes a master key where none is, and answers with the folder that had to be made.
pub fn write(path: &Path, text: &str) -> Result<Option<PathBuf>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::Refused(format!(
            "cannot write the master key {}: {}",
            path.display(),
            files::unwritable(path, &error)
        ))
    };
    // A link, a pipe or a device would be gone, with a file in its place.
    if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Failure::Refused(format!(
            "{} is a folder, a link, a pipe or a device; name a file that does not exist, or none to print the master key",
            path.display()
        )));
    }
    if path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Err(Failure::Refused(format!(
            "{} exists and is not empty; a master key is never overwritten, name another file",
            path.display()
        )));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    let mut line = Zeroizing::new(text.to_owned());
    line.push('\n');
    let written = Unfinished::new(path, 0o600).and_then(|mut file| {
        file.write(line.as_bytes())?;
        // An empty file may stand there: it is no key.
        if path.exists() {
            file.finish()
        } else {
            file.finish_new()
        }
    });
    written.map_err(cannot)?;
    Ok(folder.map(Path::to_owned))
}
