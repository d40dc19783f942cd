//! Which refresh tokens came again on this node, so that each is noted once and the database is asked once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::values::SessionId;

/// How many sessions it is remembered of that a token came again; beyond, all are forgotten.
const MOST_REPLAYS: usize = 16_384;

/// The generations whose tokens came again on this node. The database notes each once, whoever asks; without this memory sixty
/// tabs that ask at once would each wait for its one writer.
#[derive(Default)]
pub struct Replays(Mutex<HashMap<SessionId, i64>>);

impl Replays {
    /// Whether this is the first that is heard of it here.
    pub(super) fn is_new(&self, sid: SessionId, generation: i64) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_REPLAYS {
            known.clear();
        }
        known.insert(sid, generation) != Some(generation)
    }

    pub(super) fn forget(&self, sid: SessionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&sid);
    }
}
