//! The rows by which servers know of each other: each node writes one with every look, and takes it away when it stops.

use std::time::Duration;

use crate::clock::{UnixTime, sleep};
use crate::keys::policy::Policy;
use crate::store::nodes::FORGOTTEN_AFTER;
use crate::store::{Db, StoreError};

/// How often a server that stops tries to take its row out of the database, and the pause between two tries.
const LEAVING_ATTEMPTS: u32 = 3;
const LEAVING_PAUSE: Duration = Duration::from_millis(500);

/// Forgets nodes whose last heartbeat is too old, or is in the future by a clock that was wrong.
pub async fn forget_gone_nodes(db: &Db, now: UnixTime) {
    if let Err(error) = db.forget_nodes(now - FORGOTTEN_AFTER, now + FORGOTTEN_AFTER).await {
        tracing::debug!(%error, "old nodes could not be forgotten");
    }
}

/// How many living nodes run with another policy.
///
/// # Errors
/// If the database does not answer.
pub async fn differing_nodes(db: &Db, policy: &Policy, now: UnixTime) -> Result<usize, StoreError> {
    let windows = policy.windows();
    let memory = windows.snapshot_max_age + windows.clock_skew;
    let fingerprint = policy.fingerprint();
    let nodes = db.living_nodes(now, memory).await?;
    Ok(nodes
        .iter()
        .filter(|node| node.policy_fingerprint != fingerprint)
        .count())
}

/// Takes the row of this node away, so that no command waits for it.
pub async fn leave(db: &Db, node_id: &str) {
    for attempt in 1..=LEAVING_ATTEMPTS {
        match db.leave(node_id).await {
            Ok(()) => return,
            Err(error) if attempt == LEAVING_ATTEMPTS => {
                tracing::warn!(%error, "this node could not sign off: for a while commands take it for one that runs");
            }
            Err(_) => sleep(LEAVING_PAUSE).await,
        }
    }
}
