//! Which master key seals what is new while servers run. Each of them must list it: a server that cannot open a private half does not
//! sign with it, and cannot start again.

use crate::clock::{Seconds, UnixTime};
use crate::crypto::sealing::{MasterKeyId, MasterKeys};
use crate::keys::policy::Policy;
use crate::keys::trusted_time::TrustedTime;
use crate::store::nodes::Heartbeat;
use crate::store::{Db, StoreError};

/// How long a server counts as running after its last heartbeat: longer than any that lives goes without one, by a clock that may differ
/// from this one by S.
#[must_use]
pub fn heartbeat_memory(policy: &Policy) -> Seconds {
    let windows = policy.windows();
    windows.snapshot_max_age * 2 + windows.clock_skew
}

/// No master key that is listed here is listed by every running server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "these servers do not list the master key {sealing}, and could not sign with a key that is sealed under it: {}. Give this command the \
     master keys that the servers list (keys.master_key_file); a server that was killed counts as running for {memory} after its last \
     heartbeat", .nodes.join(", ")
)]
pub struct UnlistedMasterKey {
    /// The one that would seal.
    pub sealing: MasterKeyId,
    /// The servers that do not list it.
    pub nodes: Vec<String>,
    /// For how long a server counts as running.
    pub memory: Seconds,
}

/// The servers that live and do not list this master key. One of an earlier version does not say which it lists, and counts as one.
///
/// # Errors
/// When the database does not answer.
pub async fn nodes_without(
    db: &Db,
    master_key: &MasterKeyId,
    now: UnixTime,
    memory: Seconds,
) -> Result<Vec<String>, StoreError> {
    let nodes = db.living_nodes(now, memory).await?;
    Ok(without(&nodes, master_key))
}

fn without(nodes: &[Heartbeat], master_key: &MasterKeyId) -> Vec<String> {
    let id = master_key.to_string();
    let lacking = nodes
        .iter()
        .filter(|node| !node.master_keys.split(' ').any(|listed| listed == id));
    lacking.map(ToString::to_string).collect()
}

/// The master key that would seal something new: the first of those listed that every running server lists too.
///
/// # Errors
/// When the database does not answer; within, [`UnlistedMasterKey`] if there is none.
pub async fn sealing_key(
    db: &Db,
    policy: &Policy,
    master_keys: &MasterKeys,
    trusted: &TrustedTime,
) -> Result<Result<MasterKeyId, UnlistedMasterKey>, StoreError> {
    let memory = heartbeat_memory(policy);
    let mut nodes = db.living_nodes(trusted.checked_at(), memory).await?;
    // While one master key is listed, what is sealed lies under it, and a server that does not say what it lists has opened that.
    if master_keys.ids().count() == 1 {
        nodes.retain(|node| !node.master_keys.is_empty());
    }
    let common = master_keys.ids().find(|id| without(&nodes, id).is_empty());
    Ok(common.ok_or_else(|| {
        let sealing = master_keys.sealing_id();
        let nodes = without(&nodes, &sealing);
        UnlistedMasterKey { sealing, nodes, memory }
    }))
}
