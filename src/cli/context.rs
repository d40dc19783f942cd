//! What every command is given, and why one fails.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::app::{Foundation, StartError, open_database, refuse_unfinished_copy};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Sources};
use crate::files::{self, reading};
use crate::keys::emergency::UnknownKey;
use crate::rotation::RotationError;
use crate::store::compatibility::Compatibility;
use crate::store::{Db, StoreError};
use crate::text;
use crate::values::Database;

use super::actor;
use super::input::{self, cannot_read};

/// Who acts, in the audit log.
pub static ACTOR: LazyLock<String> = LazyLock::new(|| actor::of("command line"));

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(StartError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was typed cannot be done.
    #[error("{0}")]
    Usage(String),
    /// What was asked for cannot be done now.
    #[error("{0}")]
    Refused(String),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => Self::Config(error),
            other => Self::Start(other),
        }
    }
}

impl From<UnknownKey> for Failure {
    fn from(error: UnknownKey) -> Self {
        Self::Rotation(error.into())
    }
}

impl Failure {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Start(StartError::Outbound(_) | StartError::MasterKey(_)) => 2,
            Self::Start(_) | Self::Rotation(_) | Self::Store(_) | Self::Refused(_) => 1,
        }
    }
}

impl Failure {
    /// Names the database, and the setting or flag that gives its URL, in an error that does not: that of a driver.
    pub fn located(self, database: &Database, setting: &str) -> Self {
        let (Self::Store(error)
        | Self::Start(StartError::Store(error) | StartError::Rotation(RotationError::Store(error)))
        | Self::Rotation(RotationError::Store(error))) = &self
        else {
            return self;
        };
        match error {
            StoreError::Full(_) => {
                // PostgreSQL names the file, and by it the disk; SQLite may call it an I/O error.
                let reason = match database {
                    Database::Postgres(_) => format!(" ({})", error.reason()),
                    Database::Sqlite { .. } | Database::SqliteInMemory => String::new(),
                };
                Self::Refused(format!(
                    "no space is left for the database {database}{reason}: make room on its disk and try again; nothing is half written"
                ))
            }
            StoreError::Unavailable(_) => {
                if let Some(right) = error.missing_right(database.role()) {
                    return Self::Refused(format!("the database {database} refuses it: {right}"));
                }
                let reason = error.about_file().map_or_else(|| error.reason(), str::to_owned);
                let advice = error.advice().map_or_else(String::new, |advice| format!(" ({advice})"));
                Self::Refused(format!(
                    "the database {database}, which {setting} gives, cannot be used: {reason}{advice}"
                ))
            }
            StoreError::NoPrimary(_) => Self::Refused(format!(
                "{error}; if it is another one that you mean, correct the URL that {setting} gives (postgres://USER:PASSWORD@HOST:PORT/DATABASE)"
            )),
            StoreError::Migration(_) => Self::Refused(format!("{error} (in {database})")),
            _ => self,
        }
    }
}

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
