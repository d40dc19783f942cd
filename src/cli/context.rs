//! What every command is given.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::app::{Foundation, open_database, refuse_unfinished_copy};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::files::{self, reading};
use crate::store::Db;
use crate::store::compatibility::Compatibility;
use crate::text;
use crate::values::Database;

use super::actor;
use super::failure::Failure;
use super::input::{self, cannot_read};

/// Who acts, in the audit log.
pub static ACTOR: LazyLock<String> = LazyLock::new(|| actor::of("command line"));

/// What every command is given.
pub struct Context {
    pub sources: Sources,
    pub clock: Clock,
    pub json: bool,
}

impl Context {
    pub fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.sources)?)
    }

    /// The settings and the database alone, for commands that only look: they need no master key, and change no schema. A database that does
    /// not exist is not made, for a first start makes it together with its keys.
    pub async fn database(&self) -> Result<(Config, Db), Failure> {
        let (config, db) = self.database_of_any_schema().await?;
        db.require_compatible_schema().await?;
        Ok((config, db))
    }

    /// The same, whether its schema is that of this binary or an older one.
    pub async fn database_of_any_schema(&self) -> Result<(Config, Db), Failure> {
        let config = self.config()?;
        if let Database::Sqlite { path } = &config.database
            && !exists(path)?
        {
            return Err(Failure::Refused(format!(
                "there is no database {} yet; the first 'keyround serve' makes it",
                path.display()
            )));
        }
        let db = open_database(&config.database).await?;
        refuse_unfinished_copy(&db).await?;
        if db.compatibility().await? == Compatibility::Incompatible {
            db.require_compatible_schema().await?;
        }
        Ok((config, db))
    }

    /// The settings, and all that a command which changes something stands on.
    pub async fn foundation(&self) -> Result<(Config, Foundation), Failure> {
        let config = self.config()?;
        let foundation = Foundation::open_for_command(&config, self.clock.clone()).await?;
        Ok((config, foundation))
    }
}

/// The text of a file that an argument names.
pub fn read_text(argument: &str, path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_content(argument, path)?).map_err(|error| cannot_read(argument, path, &error))
}

/// The same as bytes.
pub fn read_content(argument: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let content = input::open(path)
        .and_then(reading::read_from)
        .map_err(|error| cannot_read(argument, path, &error))?;
    let text = text::decode(&content).map_err(|error| cannot_read(argument, path, &error))?;
    Ok(text.as_bytes().to_vec())
}

/// Whether the file of a database exists. A folder that this user may not look into does not show that it does not.
pub fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| {
        Failure::Refused(format!(
            "the database {} cannot be used: {}",
            path.display(),
            files::unwritable(path, &error)
        ))
    })
}

/// The folder of an SQLite file that has to be made first.
pub fn missing_folder(database: &Database) -> Option<PathBuf> {
    let Database::Sqlite { path } = database else {
        return None;
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    (!folder.exists()).then(|| folder.to_owned())
}
