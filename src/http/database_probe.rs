//! Whether the database is what a server needs while it runs: its role has every right, no part of the schema is missing, there is room for
//! new rows, no session holds a lock on its tables, and its file is the one that is open.

use std::time::Duration;

use crate::clock::Clock;
use crate::store::{Db, StoreError};

/// For how long an answer holds.
const PROBED: Duration = Duration::from_secs(1);

/// What was found, each with the reason if it is not in order.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    /// The rights of the role.
    pub rights: Result<(), String>,
    /// The parts of the schema, and the rows that are always there.
    pub schema: Result<(), String>,
    /// Room for new rows.
    pub room: Result<(), String>,
    /// Tables that can be written.
    pub locks: Result<(), String>,
    /// The file of SQLite.
    pub file: Result<(), String>,
}

/// Asks the catalog of the database, and for single rows of its tables. Callers at once share one answer.
pub struct DatabaseProbe {
    db: Db,
    clock: Clock,
    role: Option<String>,
    last: tokio::sync::Mutex<Option<(Duration, ProbeResult)>>,
}

impl DatabaseProbe {
    /// A probe that has asked nothing yet; a message names the role.
    #[must_use]
    pub fn new(db: Db, clock: Clock, role: Option<&str>) -> Self {
        Self {
            db,
            clock,
            role: role.map(str::to_owned),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// What is found now, or was within the last second.
    pub async fn look(&self) -> ProbeResult {
        let mut last = self.last.lock().await;
        let now = self.clock.read().monotonic;
        if let Some((_, found)) = last.as_ref().filter(|(at, _)| now.saturating_sub(*at) < PROBED) {
            return found.clone();
        }
        let rights = async {
            self.db.require_rights().await?;
            self.db.require_no_more_rights().await
        };
        let (rights, schema, room, locks, file) = tokio::join!(
            rights,
            self.db.require_working_schema(),
            self.db.require_room(),
            self.db.require_no_locks(),
            self.db.require_same_file()
        );
        let found = ProbeResult {
            rights: rights.map_err(|error| self.explained(&error)),
            schema: schema.map_err(|error| self.explained(&error)),
            room: room.map_err(|error| self.explained(&error)),
            locks: locks.map_err(|error| self.explained(&error)),
            file: file.map_err(|error| self.explained(&error)),
        };
        *last = Some((self.clock.read().monotonic, found.clone()));
        found
    }

    fn explained(&self, error: &StoreError) -> String {
        let right = error.missing_right(self.role.as_deref());
        right.map_or_else(
            || error.to_string(),
            |right| format!("the database refuses it: {right}"),
        )
    }
}
