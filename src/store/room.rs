//! Whether there is room for new rows in PostgreSQL. Pages that exist take small rows, such as heartbeats, long after its disk is full, so
//! that a look at the keys does not notice it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Db, StoreError};

/// Whether a statement of this process failed for want of room, and none has found some since.
static FULL: AtomicBool = AtomicBool::new(false);

/// More than a page of PostgreSQL holds, also when it is compressed.
const LARGE: usize = 1_024;

/// Notes that a statement failed for want of room.
pub(super) fn note_full() {
    FULL.store(true, Ordering::Relaxed);
}

/// A text that no free page has to be looked for: it needs new ones, and compression does not make it small.
pub(super) fn large_text() -> String {
    (0..LARGE).map(|_| uuid::Uuid::new_v4().to_string()).collect()
}

impl Db {
    /// Looks for room after a statement failed for want of it, until some is found. SQLite needs room for every write, so that looks at the
    /// keys tell it.
    ///
    /// # Errors
    /// [`StoreError::Full`], or when the database does not answer.
    pub async fn require_room(&self) -> Result<(), StoreError> {
        if matches!(self, Self::Sqlite { .. }) || !FULL.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.probe_write().await?;
        FULL.store(false, Ordering::Relaxed);
        Ok(())
    }
}
