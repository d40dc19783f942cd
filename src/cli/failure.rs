//! Why a command fails, and with which exit code.

use crate::app::StartError;
use crate::config::ConfigError;
use crate::keys::emergency::UnknownKey;
use crate::rotation::RotationError;
use crate::store::StoreError;
use crate::values::Database;

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
